"""Carries bursts between a TUN device, UDP sockets and a WireGuard device: wait, feed, flush.

Everything here is a callback of one event loop and returns soon: each takes a bounded number of packets, so
that neither direction starves the other. What a packet means is decided in `raven.wg`; how one is cut or
joined in `raven.ip`.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Generator
from typing import Final

from raven.dataplane.clock import boottime
from raven.dataplane.link import LinkState, LinkWatch
from raven.dataplane.lull import Lull
from raven.dataplane.offloads import TUN_NAMES, Offloads
from raven.dataplane.routes import RouteWatch
from raven.dataplane.sending import Sender
from raven.dataplane.tun import READ_MAX, LinkGone, Tun
from raven.dataplane.udp import Burst, Udp, UdpError, UdpSocket
from raven.dataplane.writing import Writer
from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.open_checksum import check_open_checksum, complete_checksum
from raven.wg.configuration import DeviceChange, DeviceState, Status, UapiError
from raven.wg.device import Device
from raven.wg.events import RunsLost
from raven.wg.keypair import run_limit

log = logging.getLogger("raven.engine")

# Superpackets of one wake-up, in either direction: enough that a wake-up's own cost (40 µs) is small beside
# the work, few enough (8 x 64 KiB, about 1 ms) that the other direction and the timers do not wait long.
_BURSTS: Final = 8
# Received bursts that are joined at once: half of joining costs the same for one burst as for four.
_TOGETHER: Final = 4
# Seconds between two looks at the routes: each peer costs a question to the kernel, 20 µs, and a router may
# change routes all the time.
_ROUTES_PAUSE: Final = 0.5
# Superpackets that contradict their own header, after which the kernel is asked for none any more.
_CONTRADICTIONS_MAX: Final = 8
# One read in so many is verified as far as it can be: 2 µs beside 60 for a superpacket.
_SAMPLED: Final = 64


class Engine:
    """One interface at work. `ended()` is called when it cannot go on, with an error or ""."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tun: Tun,
        device: Device,
        ended: Callable[[str], None],
        offloads: Offloads | None = None,
    ) -> None:
        """`offloads`: what is known not to work."""
        self._loop = loop
        self._tun = tun
        self._device = device
        self._ended = ended
        self._link = LinkWatch(tun.index)
        self._routes = RouteWatch()
        self._routes_timer: asyncio.TimerHandle | None = None
        self._routes_looked_at = 0.0
        self._state = LinkState(up=False, mtu=device.mtu)
        device.link_down()
        self._offloads = offloads or Offloads()
        for name, why in tun.refused_offloads().items():
            self._offloads.failed(name, why)
        tun.keep_off(self._offloads.tun_off())
        self._contradictions = 0
        self._reads = 0
        self._sender = Sender(loop, device, self._may_read)
        self._writer = Writer(tun, device, self._offloads)
        # One for each read of a wake-up: the device may be given several packets in one call.
        self._buffers = [memoryview(bytearray(READ_MAX)) for _ in range(_BURSTS)]
        self._tun_lull = Lull()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def start(self) -> None:
        self._loop.add_reader(self._link.fileno(), self._link_changed)
        self._loop.add_reader(self._routes.fileno(), self._routes_changed)
        self._loop.add_reader(self._tun.fileno(), self._tun_readable)
        self._link_changed()

    def stop(self) -> None:
        """Lets go of sockets and descriptors; the TUN device stays its owner's."""
        self._sender.close()
        self._loop.remove_reader(self._tun.fileno())
        self._loop.remove_reader(self._link.fileno())
        self._link.close()
        self._loop.remove_reader(self._routes.fileno())
        self._routes.close()
        for timer in (self._timer, self._routes_timer):
            if timer is not None:
                timer.cancel()

    # From the UAPI --------------------------------------------------------------------------------

    def state(self) -> DeviceState:
        return self._device.state()

    def status(self) -> Status:
        return dataclasses.replace(self._device.status(), offloads=self._offloads.states())

    def configuring(self, change: DeviceChange) -> Generator[None, None, None]:
        """Applies all of `change` in its last step, or nothing: UapiError. One change at a time."""
        prepared = yield from self._device.preparing(change)
        device, current = self._device, self._sender.udp
        fresh: Udp | None = None
        port = change.listen_port
        if self._state.up and port is not None and (current is None or port != current.port):
            # Opened before anything is applied, so that a port in use changes nothing.
            fwmark = device.fwmark if change.fwmark is None else change.fwmark
            fresh = _open_udp(port, fwmark, self._offloads)
        now = boottime()
        try:
            if fresh is None and current is not None and change.fwmark not in (None, device.fwmark):
                _set_fwmark(current, change.fwmark or 0)
            device.apply(change, prepared, now)
        except UapiError:
            if fresh is not None:
                fresh.close()
            raise
        if fresh is not None:
            self._sender.close()
            self._use_udp(fresh)
            device.link_up(now)
        self._flush(now)

    # Callbacks ------------------------------------------------------------------------------------

    def _link_changed(self) -> None:
        self._link.drain()
        state = self._link.state()
        if state is None:
            self._ended("")
            return
        self._device.mtu = state.mtu
        if state.up and self._sender.udp is None:
            try:
                self._use_udp(_open_udp(self._device.listen_port, self._device.fwmark, self._offloads))
                self._device.link_up(boottime())
            except UapiError as error:
                log.error("%s: no packets until another port is set: %s", self._tun.name, error)
        elif not state.up:
            self._sender.close()
            self._device.link_down()
        if state != self._state:
            log.debug("%s: %s, MTU %d", self._tun.name, "up" if state.up else "down", state.mtu)
        self._state = state
        self._flush(boottime())

    def _routes_changed(self) -> None:
        """Some route changed: looks which answers that concerns, at once or when it is time again."""
        self._loop.remove_reader(self._routes.fileno())
        wait = self._routes_looked_at + _ROUTES_PAUSE - self._loop.time()
        self._routes_timer = self._loop.call_later(max(0.0, wait), self._look_at_routes)

    def _look_at_routes(self) -> None:
        self._routes_timer = None
        self._routes_looked_at = self._loop.time()
        self._routes.drain()
        self._loop.add_reader(self._routes.fileno(), self._routes_changed)
        if self._sender.udp is not None:
            device = self._device
            moved = self._sender.udp.routes_changed(
                device.endpoints(), lambda endpoint: self._routes.interface(endpoint, device.fwmark)
            )
            device.sources_moved(moved)

    def _tun_readable(self) -> None:
        """Packets out: read, cut, seal, send."""
        now = boottime()
        try:
            size = self._tun.read_into(self._buffers[0])
            lull = self._tun_lull
            if now < lull.until or not self._send_lone(size, now):
                self._send_burst(size, now)
            else:
                lull.brought(1, now)
        except LinkGone:
            self._ended("")
            return
        if self._device.pending:
            self._flush(now)

    def _send_lone(self, size: int, now: float) -> bool:
        """The short way of a packet that comes alone; False when the one just read is not for it."""
        buffer = self._buffers[0]
        if not size or buffer[h.VIRTIO_GSO_TYPE] != h.GSO_NONE:
            return False
        if buffer[h.VIRTIO_FLAGS] & h.NEEDS_CSUM:
            try:
                complete_checksum(h.Virtio.unpack_from(buffer), buffer[h.VIRTIO_LEN : size])
            except PeerError:
                return False  # counted where it is met again
            buffer[: h.VIRTIO_LEN] = h.PLAIN  # that is done, whichever way it goes
        transmit = self._device.send_lone(buffer, h.VIRTIO_LEN, size, now)
        if transmit is None:
            return False
        udp = self._sender.udp
        if udp is None or not udp.send_lone(transmit):
            self._sender.send_one(transmit)
        return True

    def _send_burst(self, size: int, now: float) -> None:
        """Sends a bounded number of packets, of which one of `size` bytes was read."""
        device = self._device
        # Read and not yet given to the device, in order: whole packets, and what was left of a superpacket.
        pending: list[memoryview] = []
        count = 0
        for buffer in self._buffers:
            if count:
                size = self._tun.read_into(buffer)
            if not size:
                break
            count += 1
            packet = buffer[h.VIRTIO_LEN : size]
            virtio = h.Virtio.unpack_from(buffer)
            self._reads += 1
            try:
                if not self._reads % _SAMPLED:
                    check_open_checksum(virtio, packet)
                if virtio.gso_type == h.GSO_NONE:
                    if virtio.flags & h.NEEDS_CSUM:
                        complete_checksum(virtio, packet)
                    pending.append(packet)
                    continue
                if device.superframes:
                    if pending:
                        device.send(pending, now)
                        pending = []
                    if device.send_superpacket(buffer, size, now):
                        self._sender.send()
                        if self._sender.blocked:
                            break
                        continue
                segments = self._writer.cutter.cut(virtio, packet)
            except PeerError as error:
                device.dropped(error.reason)
                self._contradicted(virtio)
                continue
            pending = self._send_segments(pending, segments, now)
            if self._sender.blocked:
                break
        if pending:
            device.send(pending, now)
        self._write()  # what was too large for its path went back to its sender, as ICMP
        self._tun_lull.brought(count, now)

    def _send_segments(
        self, pending: list[memoryview], segments: list[memoryview], now: float
    ) -> list[memoryview]:
        """Sends `pending` and `segments`, but for a rest that the next superpacket may fill to a whole run.

        A superpacket of 64 KiB, once sealed, is longer than what one UDP_SEGMENT call takes. In a call of
        their own its last segments would cost ten times as much each, here and where they arrive. To ask
        the kernel for shorter ones is no way: it cuts those that it forwards into single packets.
        """
        device = self._device
        size = len(segments[0])
        whole = [*pending, *segments] if pending else segments
        rest: list[memoryview] = []
        limit = run_limit(size, device.mtu)
        if limit and len(segments[-1]) == size:
            left = len(whole) % limit
            if 0 < left <= min(limit // 2, len(segments)):  # a longer one costs little more alone
                # Copied, because the next cut overwrites them.
                rest = [memoryview(bytes(segment)) for segment in whole[-left:]]
                whole = whole[:-left]
        if whole:
            device.send(whole, now)
            self._sender.send()
        return rest

    def _udp_readable(self, source: UdpSocket, lull: Lull) -> None:
        """Packets in: receive, open, join, write."""
        now = boottime()
        burst = source.receive()
        if burst is None:
            return
        if now < lull.until or not self._receive_lone(burst, now):
            lull.brought(self._receive_bursts(source, burst, now), now)
        else:
            lull.brought(1, now)
        if self._device.pending:
            self._flush(now)

    def _receive_lone(self, burst: Burst, now: float) -> bool:
        """The short way of a datagram that comes alone; False when this one is not for it."""
        datagrams, endpoint, ecn = burst
        if len(datagrams) > 1:
            return False
        packet = self._device.receive_lone(datagrams[0], endpoint, now, ecn=ecn)
        if packet is None:
            return False
        if packet:
            try:
                if reason := self._tun.write((h.PLAIN, packet)):
                    self._device.dropped(reason)
            except LinkGone:
                self._ended("")
        return True

    def _receive_bursts(self, source: UdpSocket, burst: Burst | None, now: float) -> int:
        """Takes in `burst` and a bounded number of others; how many datagrams that were."""
        device = self._device
        count = 0
        for number in range(_BURSTS):
            if number:
                burst = source.receive()
            if burst is None:
                break
            if number % _TOGETHER == 0:
                self._write()
                self._sender.send()
            count += len(burst.datagrams)
            device.receive(burst.datagrams, burst.endpoint, now, ecn=burst.ecn)
        self._write()
        return count

    def _write(self) -> None:
        try:
            self._writer.write()
        except LinkGone:
            self._ended("")

    def _may_read(self, now: bool) -> None:
        if now:
            self._loop.add_reader(self._tun.fileno(), self._tun_readable)
        else:
            self._loop.remove_reader(self._tun.fileno())

    def _contradicted(self, virtio: h.Virtio) -> None:
        """What the kernel handed over was not what its header said: some are a fault of the kernel's."""
        if virtio.gso_type == h.GSO_NONE and not virtio.flags & h.NEEDS_CSUM:
            return
        self._contradictions += 1
        if self._contradictions == _CONTRADICTIONS_MAX:
            self._tun.stop_superpackets()
            for name in TUN_NAMES:
                self._offloads.failed(name, "the kernel hands over packets that contradict their headers")

    def _timer_due(self) -> None:
        self._timer = None
        now = boottime()
        self._device.handle_timeout(now)
        self._flush(now)

    # Flushing -------------------------------------------------------------------------------------

    def _flush(self, now: float) -> None:
        """Sends and logs what the device has to say, and sets the clock for its next timer."""
        self._sender.send()
        for event in self._device.events():
            if isinstance(event, RunsLost):
                self._offloads.runs_lost_toward(event.endpoint.host)
            log.debug("%s: %s", self._tun.name, event)
        at = self._device.next_timeout()
        # A timer that fires early costs a wake-up; to move it with each burst would cost more. One that is
        # late by a second waits for the loop's clock, which stood still while the machine slept.
        if at is not None and (self._timer is None or at < self._timer_at > now or self._timer_at < now - 1):
            if self._timer is not None:
                self._timer.cancel()
            # One more millisecond: the loop's clock is that coarse, and early would be in vain.
            self._timer_at = max(at, now)
            self._timer = self._loop.call_later(self._timer_at - now + 0.001, self._timer_due)

    def _use_udp(self, udp: Udp) -> None:
        self._sender.udp = udp
        self._device.listen_port = udp.port
        for one in udp.sockets:
            self._loop.add_reader(one.fileno(), self._udp_readable, one, Lull())


def _open_udp(port: int, fwmark: int, offloads: Offloads) -> Udp:
    try:
        return Udp(port, fwmark, offloads)
    except UdpError as error:
        raise UapiError(error.errno, str(error)) from error


def _set_fwmark(udp: Udp, fwmark: int) -> None:
    try:
        udp.set_fwmark(fwmark)
    except UdpError as error:
        raise UapiError(error.errno, str(error)) from error
