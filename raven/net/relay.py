"""The packet lane inside the stream lane, for networks that let no UDP pass.

    device ── UDP on loopback ── Relay ══ datagram runs of a tunnel ══ Relay ── UDP on loopback ── device

To a device the relay beside it is the place where its peer is. The agent's end tells its device so, and
WireGuard's own roaming moves the gateway's device over with the first packet that authenticates. Nothing is
looked at here, nothing waits: what a tunnel or a device does not take at once is dropped and counted, as a
network would. A datagram goes to one port of this machine and no other, whatever the far end sends.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio

from raven.mux.frames import DATAGRAMS_MAX
from raven.wg.endpoint import Endpoint

FLOW: Final = 0  # of the datagram runs; there is one device at each end
# Of a run without meaning by which the gateway tells a node that it hears nothing of its device. A node of
# which nobody wants anything cannot know: what is sent to it is what does not arrive.
MISSED_FLOW: Final = 1
DATAGRAM_MIN: Final = 32  # bytes; a keepalive, the shortest message of WireGuard
SEGMENTS_MAX: Final = 64  # of one call; UDP_MAX_SEGMENTS of kernels before 6.2
READS_MAX: Final = 16  # runs read before the event loop has its turn
_HOST: Final = "127.0.0.1"
_UDP_SEGMENT: Final = 103  # linux/udp.h
_UDP_GRO: Final = 104
_SIZE: Final = struct.Struct("=i")  # of what UDP_GRO tells
_SEGMENT: Final = struct.Struct("=H")  # of what UDP_SEGMENT takes

Send = Callable[[int, memoryview], bool]  # a run by its segment size; whether it was taken


def is_relay(endpoint: Endpoint | None) -> bool:
    """Whether a device's peer is behind a relay beside it, as far as the address tells."""
    return endpoint is not None and endpoint.host == _HOST


class Relay:
    """One UDP socket that stands for the far device, towards the device that listens at `device_port`."""

    def __init__(self, device_port: int, dropped: Counter[str]) -> None:
        """Counts in `dropped`, by reason. OSError when there can be no such socket."""
        self._dropped = dropped
        self._closed = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind((_HOST, 0))
            self._socket.connect((_HOST, device_port))  # nobody else's datagrams are taken
            with contextlib.suppress(OSError):  # a kernel before 5.0: one datagram a read
                self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
            self.endpoint = f"{_HOST}:{self._socket.getsockname()[1]}"
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Ends `run` as well."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def run(self, send: Send) -> None:
        """Gives what the device sends to `send`, until closed or cancelled."""
        buffer = memoryview(bytearray(DATAGRAMS_MAX))
        with contextlib.suppress(trio.ClosedResourceError):
            while not self._closed:
                await trio.lowlevel.wait_readable(self._socket)
                self._read(buffer, send)

    def _read(self, buffer: memoryview, send: Send) -> None:
        for _ in range(READS_MAX):
            try:
                size, control, _, _ = self._socket.recvmsg_into([buffer], socket.CMSG_SPACE(_SIZE.size))
            except BlockingIOError:
                return
            except OSError:  # the device is not there at the moment, says the kernel of what we sent
                continue
            segment = _SIZE.unpack(control[0][2])[0] if control else size
            if size and not send(segment, buffer[:size]):
                self._dropped["relay-tunnel-full"] += 1

    def to_device(self, segment_size: int, data: bytes) -> None:
        """Sends a run that came through the tunnel to the device: segments of that size, the last shorter."""
        if segment_size < DATAGRAM_MIN:
            self._dropped["relay-too-short"] += 1
            return
        step = segment_size * SEGMENTS_MAX
        view = memoryview(data)
        for start in range(0, len(view), step):
            run = view[start : start + step]
            segmented = [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SEGMENT.pack(segment_size))]
            try:
                self._socket.sendmsg([run], segmented if len(run) > segment_size else [])
            except OSError:
                # Its socket is full, or it is not there. A kernel that cannot cut runs says no to each.
                self._one_by_one(run, segment_size)

    def _one_by_one(self, run: memoryview, segment_size: int) -> None:
        for start in range(0, len(run), segment_size):
            try:
                self._socket.send(run[start : start + segment_size])
            except OSError:
                self._dropped["relay-device-full"] += 1
                return
