"""Many WireGuard initiators as one load: the same messages for each device that is measured.

Handshakes are computed beforehand, with timestamps that grow, so that what is measured is the device alone.
Each initiator has an address of its own (198.18.0.0/16 is the sender's) because devices limit what one source
may ask for. A cookie that is asked for is used.
"""

import random
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

from raven.keys import PrivateKey, PublicKey
from raven.wg.cookie import MacGenerator
from raven.wg.handshake import create_initiation
from raven.wg.messages import (
    TYPE,
    TYPE_COOKIE_REPLY,
    TYPE_RESPONSE,
    CookieReply,
    Initiation,
    Response,
    tai64n,
)
from raven.wg.primitives import DhPrivateKey

SOURCES: Final = "198.18.0.0/15"
_FIRST: Final = int(IPv4Address("198.18.0.0"))
_STRANGERS: Final = int(IPv4Address("198.19.0.0"))
_WINDOW: Final = 64  # initiations unanswered at a time: half of what makes wireguard-go ask for cookies
_LOST_AFTER: Final = 0.5  # seconds without any answer
_RETRY: Final = 5.1  # seconds; REKEY_TIMEOUT and some jitter
_PKTINFO = struct.Struct("=i4s4s")
_IP_PKTINFO: Final = 8

Body = tuple[int, bytes]  # whose, and an initiation without its MACs; its sender index is its place


class Initiators:
    """`count` peers of the device whose key is `hub`, each with `each` initiations ready."""

    def __init__(self, hub: PublicKey, count: int, each: int) -> None:
        self._hub = hub
        keys = [DhPrivateKey(PrivateKey.clamped(random.randbytes(32))) for _ in range(count)]
        self.public = [key.public for key in keys]
        shared = [key.exchange(hub) for key in keys]
        self._bodies: list[Body] = []
        for turn in range(each):
            for number, key in enumerate(keys):
                message, _ = create_initiation(
                    key,
                    hub,
                    shared[number],
                    index=len(self._bodies),
                    ephemeral=DhPrivateKey(PrivateKey.clamped(random.randbytes(32))),
                    timestamp=tai64n(1_700_000_000 + turn, 0),
                )
                self._bodies.append((number, message.encode()))

    def handshakes_per_second(self, sender: socket.socket, address: tuple[str, int], turns: range) -> float:
        """Answers a second to the initiations of those turns, a few unanswered at a time."""
        count = len(self.public)
        waiting = deque(range(turns.start * count, turns.stop * count))
        load = _Load(sender, address, self._hub)
        open_: set[int] = set()
        answered = 0
        began = time.perf_counter()
        while waiting or open_:
            while waiting and len(open_) < _WINDOW:
                index = waiting.popleft()
                open_.add(index)
                load.send(*self._bodies[index])
            if not select.select([sender], [], [], _LOST_AFTER)[0]:
                open_.clear()  # lost
                began += _LOST_AFTER
            for index, cookie in load.answers():
                if index in open_:
                    if cookie:
                        load.send(*self._bodies[index])
                    else:
                        open_.discard(index)
                        answered += 1
        return answered / (time.perf_counter() - began)

    def served_under_flood(
        self, sender: socket.socket, address: tuple[str, int], turns: range, *, rate: int, seconds: float
    ) -> float:
        """The share of the peers that is answered within `seconds`, while strangers send `rate` a second.

        A turn is a try: an initiator repeats itself after 5 s. Strangers know the device's public key,
        have an address each, and do not use the cookies they get.
        """
        load = _Load(sender, address, self._hub)
        macs = MacGenerator(self._hub)
        hostile = [
            macs.add_macs(
                Initiation(
                    0xFFFFFFFF, random.randbytes(32), random.randbytes(48), random.randbytes(28)
                ).encode(),
                0.0,
            )
            for _ in range(1000)
        ]
        count = len(self.public)
        served: set[int] = set()
        began = time.perf_counter()
        sent = 0
        tries = iter(turns)
        due = began + 0.5  # the flood is there first
        while (now := time.perf_counter()) < began + seconds:
            while sent < (now - began) * rate:
                load.send_from(_STRANGERS + sent % 65521, hostile[sent % len(hostile)])
                sent += 1
            if now >= due and (turn := next(tries, None)) is not None:
                due = now + _RETRY
                for number in range(count):
                    if number not in served:
                        load.send(*self._bodies[turn * count + number])
            select.select([sender], [], [], 0.001)
            for index, cookie in load.answers():
                if not cookie:
                    served.add(index % count)
        return len(served) / count


class _Load:
    """One socket, and the cookies of everybody who sends by it."""

    def __init__(self, sender: socket.socket, address: tuple[str, int], hub: PublicKey) -> None:
        self._socket = sender
        self._address = address
        self._hub = hub
        self._macs: dict[int, MacGenerator] = {}
        self._whose: dict[int, int] = {}  # sender index -> peer

    def send(self, number: int, body: bytes) -> None:
        macs = self._macs.get(number)
        if macs is None:
            macs = self._macs[number] = MacGenerator(self._hub)
        (index,) = struct.unpack_from("<I", body, TYPE.size)
        self._whose[index] = number
        self.send_from(_FIRST + number, macs.add_macs(body, time.perf_counter()))

    def send_from(self, source: int, message: bytes) -> None:
        packed = _PKTINFO.pack(0, source.to_bytes(4), bytes(4))
        self._socket.sendmsg([message], [(socket.IPPROTO_IP, _IP_PKTINFO, packed)], 0, self._address)

    def answers(self) -> Iterator[tuple[int, bool]]:
        """The index that each answer names, and whether it was a cookie."""
        while True:
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                return
            (kind,) = TYPE.unpack_from(data)
            if kind == TYPE_RESPONSE:
                yield Response.decode_untrusted(data).receiver, False
            elif kind == TYPE_COOKIE_REPLY:
                reply = CookieReply.decode_untrusted(data)
                number = self._whose.get(reply.receiver)
                if number is not None:
                    self._macs[number].cookie_reply_received(reply, time.perf_counter())
                    yield reply.receiver, True
