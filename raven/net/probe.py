"""Round trips through the packet lane: a UDP echo on the probe address of every device.

One socket does both: it answers the probes of others and asks its own. An answer is exactly as long as its
question and goes to addresses of the probe network only, so nobody can be flooded through it; question and
answer differ in a byte, so two responders never talk to each other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from ipaddress import IPv6Address

import trio

from raven.errors import RavenError
from raven.topology.model import PROBE_NETWORK, PROBE_PORT

# - 3 bytes: "rvp"
# - u8: 1 question, 2 answer
# - 8 bytes: nonce, chosen by the asker. Short for metered links: WireGuard says who answers, not this
_PROBE = struct.Struct("!3sB8s")
_NONCE_LEN = 8
_MAGIC = b"rvp"
_QUESTION, _ANSWER = 1, 2

PROBE_TIMEOUT = 3.0  # seconds for one question; a path over 4G may hold packets for a second or two
ATTEMPTS = 2  # so that one lost datagram in a hundred alarms nobody
# One nonce a question that waits. A gateway asks all its nodes within an interval, so some thousand at the
# very most; beyond that the caller has lost count.
_WAITING_MAX = 8192
_IP_FREEBIND = 15  # <linux/in.h>; the address may come later than the socket, or go and come back


class ProbeError(RavenError):
    """No round trip; the message is a sentence for the operator."""


class Prober:
    """The echo on one device's probe address, and the asker of others'."""

    def __init__(self, address: IPv6Address, *, port: int = PROBE_PORT) -> None:
        self.address = address
        self.port = port
        self.answered = 0  # questions of others
        self.dropped = 0  # datagrams that are no question and no awaited answer, or come from elsewhere
        self._socket: trio.socket.SocketType | None = None
        self._waiting: dict[bytes, _Question] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answers and listens until cancelled. Started once the socket is bound, or ProbeError."""
        try:
            with trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
                bound.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await bound.bind((str(self.address), self.port))
                self._socket = bound
                task_status.started()
                while True:
                    data, source = await bound.recvfrom(_PROBE.size + 1)  # one more, to see what is too long
                    await self._take_untrusted(bound, data, source)
        except OSError as error:
            raise ProbeError(f"no probe socket at [{self.address}]:{self.port}: {_words(error)}") from error
        finally:
            self._socket = None

    async def probe(
        self, address: IPv6Address, *, timeout: float = PROBE_TIMEOUT, attempts: int = ATTEMPTS
    ) -> float:
        """Seconds until the device at `address` answered; ProbeError when it did not, `attempts` times."""
        if self._socket is None:
            raise ProbeError("the packet lane is down on this side")
        if len(self._waiting) >= _WAITING_MAX:
            raise ProbeError("too many probes are under way")
        for _ in range(attempts):
            nonce = os.urandom(_NONCE_LEN)
            question = self._waiting[nonce] = _Question(address)
            try:
                with trio.move_on_after(timeout):
                    await self._socket.sendto(
                        _PROBE.pack(_MAGIC, _QUESTION, nonce), (str(address), self.port)
                    )
                    await question.answered.wait()
                    return question.received - question.sent
            except OSError as error:
                raise ProbeError(f"a probe to [{address}] cannot be sent: {_words(error)}") from error
            finally:
                del self._waiting[nonce]
        raise ProbeError(f"no answer to {attempts} probes within {timeout:g} s each")

    async def _take_untrusted(
        self, bound: trio.socket.SocketType, data: bytes, source: tuple[str, int, int, int]
    ) -> None:
        host, port = source[:2]
        if len(data) == _PROBE.size and IPv6Address(host.partition("%")[0]) in PROBE_NETWORK:
            magic, kind, nonce = _PROBE.unpack(data)
            question = self._waiting.get(nonce)
            if magic == _MAGIC and kind == _QUESTION:
                with contextlib.suppress(
                    OSError
                ):  # no route back, or a full queue: as good as lost on the way
                    await bound.sendto(_PROBE.pack(_MAGIC, _ANSWER, nonce), (host, port))
                    self.answered += 1
                return
            if magic == _MAGIC and kind == _ANSWER and question and question.address == IPv6Address(host):
                question.received = trio.current_time()
                question.answered.set()
                return
        self.dropped += 1


class _Question:
    """One that waits for its answer."""

    def __init__(self, address: IPv6Address) -> None:
        self.address = address
        self.sent = trio.current_time()
        self.received = 0.0
        self.answered = trio.Event()


def _words(error: OSError) -> str:
    if error.errno == errno.EAFNOSUPPORT:
        return "IPv6 is not in this kernel (or it was started with ipv6.disable=1)"
    return error.strerror or str(error)
