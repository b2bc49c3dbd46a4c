"""Transport keys: seal and open runs of messages, and the rotation previous, current, next.

The data path ends here: `peer` hands in runs of equal packets, and each packet costs one AEAD call plus
little. Nothing here knows time beyond its own birth, endpoints or timers.
"""

import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from raven.wg.configuration import SuperframeCipher
from raven.wg.constants import (
    PADDING,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
)
from raven.wg.handshake import TransportKeys
from raven.wg.messages import TRANSPORT_HEADER, TRANSPORT_OVERHEAD, TYPE_TRANSPORT
from raven.wg.replay import ReplayWindow
from raven.wg.scratch import Scratch
from raven.wg.superframe import Superframes

RUN_SEGMENTS_MAX = 64  # Linux's UDP_MAX_SEGMENTS before 6.2, what every kernel takes
RUN_BYTES_MAX = 65507  # the largest UDP payload over IPv4

PREVIOUS_MAX = 2  # keypairs of a peer that only open any more

_HEADER_LEN = TRANSPORT_HEADER.size
_NONCE = struct.Struct("<4xQ")  # section 5.4.6: 32 zero bits, then the counter, little-endian
_NOTHING = memoryview(bytearray())
_ZEROS = bytes(PADDING)


class Keypair:
    """One handshake's keys in both directions, with their counters."""

    __slots__ = (
        "_decrypt_into",
        "_encrypt_into",
        "_exporter",
        "_superframes",
        "born",
        "initiator",
        "local_index",
        "may_seal",
        "remote_index",
        "renew_after",
        "sent",
        "window",
    )

    def __init__(self, keys: TransportKeys, *, initiator: bool, now: float) -> None:
        self.local_index = keys.local_index
        self.remote_index = keys.remote_index
        self.initiator = initiator  # the initiator answers for renewing it, section 6.2
        self.born = now
        self.renew_after = REKEY_AFTER_TIME  # seconds
        self.sent = 0  # counter of the next message
        self.may_seal = True
        self.window = ReplayWindow()
        self._encrypt_into = ChaCha20Poly1305(keys.sending).encrypt_into
        self._decrypt_into = ChaCha20Poly1305(keys.receiving).decrypt_into
        self._exporter = keys.exporter
        self._superframes: dict[SuperframeCipher, Superframes] = {}

    def superframes(self, cipher: SuperframeCipher) -> Superframes:
        """This keypair's superframe keys; the same object at each call, so that no nonce comes twice."""
        made = self._superframes.get(cipher)
        if made is None:
            made = self._superframes[cipher] = Superframes(
                cipher, self._exporter, initiator=self.initiator, remote_index=self.remote_index
            )
        return made

    def can_seal(self, count: int, now: float) -> bool:
        """Whether `count` messages may leave under this key now: REJECT_AFTER_TIME, REJECT_AFTER_MESSAGES."""
        return (
            self.may_seal
            and now - self.born < REJECT_AFTER_TIME
            and self.sent + count <= REJECT_AFTER_MESSAGES
        )

    def can_open(self, counter: int, count: int, now: float) -> bool:
        """Whether `count` messages from `counter` on may be accepted under this key now."""
        return now - self.born < REJECT_AFTER_TIME and counter + count <= REJECT_AFTER_MESSAGES

    def needs_renewal(self, now: float) -> bool:
        """Whether the sender of a message should start the next handshake (REKEY_AFTER_*)."""
        return self.sent > REKEY_AFTER_MESSAGES or (self.initiator and now - self.born >= self.renew_after)

    def seal_run(
        self, packets: Sequence[memoryview | bytes], size: int, mtu: int, scratch: Scratch
    ) -> memoryview:
        """The messages for a run of packets of `size` bytes, the last maybe shorter, one behind the other.

        Ask `can_seal` and keep to `run_limit` before.
        """
        padded = padded_size(size, mtu)
        stride = padded + TRANSPORT_OVERHEAD
        count = len(packets)
        whole, bodies = scratch.run(count, stride, _HEADER_LEN)
        last = packets[-1]
        last_size = len(last)
        even = count if last_size == size else count - 1
        counter = self.sent
        self.sent += count

        encrypt_into = self._encrypt_into
        pack_header = TRANSPORT_HEADER.pack_into
        nonce = _NONCE.pack
        index = self.remote_index
        start = 0
        if padded == size:
            for packet, body in zip(packets[:even], bodies, strict=False):
                pack_header(whole, start, TYPE_TRANSPORT, index, counter)
                encrypt_into(nonce(counter), packet, None, body)
                start += stride
                counter += 1
        else:
            plain, plain_padded = scratch.padding(size, padded)
            for packet, body in zip(packets[:even], bodies, strict=False):
                plain[:] = packet
                pack_header(whole, start, TYPE_TRANSPORT, index, counter)
                encrypt_into(nonce(counter), plain_padded, None, body)
                start += stride
                counter += 1
        if even < count:
            last_padded = padded_size(last_size, mtu)
            end = start + last_padded + TRANSPORT_OVERHEAD
            plain, plain_padded = scratch.padding(last_size, last_padded)
            plain[:] = last
            pack_header(whole, start, TYPE_TRANSPORT, index, counter)
            encrypt_into(nonce(counter), plain_padded, None, whole[start + _HEADER_LEN : end])
            start = end
        return whole[:start]

    def seal_lone(
        self, buffer: memoryview, start: int, size: int, mtu: int, room: memoryview, now: float
    ) -> memoryview | None:
        """`seal_run` for the packet of `size` bytes from `start` in `buffer`; padding is written behind it.

        The message is made in `room`. None: `can_seal` says no.
        """
        counter = self.sent
        if not self.may_seal or now - self.born >= REJECT_AFTER_TIME or counter >= REJECT_AFTER_MESSAGES:
            return None
        self.sent = counter + 1
        padded = padded_size(size, mtu)
        if padded != size:
            buffer[start + size : start + padded] = _ZEROS[: padded - size]
        end = padded + TRANSPORT_OVERHEAD
        TRANSPORT_HEADER.pack_into(room, 0, TYPE_TRANSPORT, self.remote_index, counter)
        self._encrypt_into(_NONCE.pack(counter), buffer[start : start + padded], None, room[_HEADER_LEN:end])
        return room[:end]

    def open_lone(
        self, datagram: memoryview, counter: int, room: memoryview, now: float
    ) -> memoryview | None:
        """`open_run` for one datagram, into `room`; None, and nothing changed, when it is refused."""
        window = self.window
        if (
            now - self.born >= REJECT_AFTER_TIME
            or counter >= REJECT_AFTER_MESSAGES
            or not window.is_new(counter)
        ):
            return None
        packet = room[: len(datagram) - TRANSPORT_OVERHEAD]
        try:
            self._decrypt_into(_NONCE.pack(counter), datagram[_HEADER_LEN:], None, packet)
        except InvalidTag:
            return None
        window.mark(counter)
        return packet

    def open_run(
        self, datagrams: Sequence[memoryview], counter: int, scratch: Scratch
    ) -> tuple[list[memoryview], int, int]:
        """Packets that authenticate, in order and still padded, and how many were replayed and forged.

        The run's counters are consecutive from `counter`; all datagrams are as long as the first, but the
        last may be shorter. Ask `can_open` before. Only what authenticates moves the window.
        """
        count = len(datagrams)
        size = len(datagrams[0]) - TRANSPORT_OVERHEAD
        last_size = len(datagrams[-1]) - TRANSPORT_OVERHEAD
        views: Sequence[memoryview]
        if size:
            whole, views = scratch.run(count, size, 0)
            if last_size != size:
                start = (count - 1) * size
                views = [*views[: count - 1], whole[start : start + last_size]]
        else:
            views = [_NOTHING] * count

        window = self.window
        ahead = window.is_ahead(counter)
        decrypt_into = self._decrypt_into
        nonce = _NONCE.pack
        packets: list[memoryview] = []
        accepted: list[int] = []
        replayed = forged = 0
        first = counter
        for datagram, packet in zip(datagrams, views, strict=False):
            if ahead or window.is_new(counter):
                try:
                    decrypt_into(nonce(counter), datagram[_HEADER_LEN:], None, packet)
                    packets.append(packet)
                    accepted.append(counter)
                except InvalidTag:
                    forged += 1
            else:
                replayed += 1
            counter += 1
        if len(packets) == count:
            window.mark(first, count)
        else:
            for number in accepted:
                window.mark(number)
        return packets, replayed, forged


def padded_size(size: int, mtu: int) -> int:
    """The length a packet of `size` bytes travels with: a multiple of PADDING, but never beyond the MTU.

    A packet above the MTU (the kernel is about to fragment it, or the MTU just shrank) pads its last MTU's
    worth only, as the kernel's calculate_skb_padding does.
    """
    last = size % mtu if size > mtu else size
    return size + min(mtu, -(-last // PADDING) * PADDING) - last


def run_limit(size: int, mtu: int) -> int:
    """How many packets of `size` bytes fit in one run; 0 if not even one fits in a datagram."""
    return min(RUN_SEGMENTS_MAX, RUN_BYTES_MAX // (padded_size(size, mtu) + TRANSPORT_OVERHEAD))


class Keypairs:
    """The keypairs of a peer. Each method returns what fell out, whose indices are to be freed.

    The kernel has one `previous`; we keep two that are still good. When both ends initiate at once each
    ends up sealing under the handshake it began, so for a round trip three keypairs are in use besides the
    new one, and dropping any of them drops packets in flight. No key is kept longer than it can open:
    REJECT_AFTER_TIME.
    """

    __slots__ = ("current", "next", "previous")

    def __init__(self) -> None:
        self.previous: list[Keypair] = []  # newest first; still open what was sealed before a rotation
        self.current: Keypair | None = None  # seals
        self.next: Keypair | None = None  # made as responder; becomes current with the first message under it

    def answered_since(self, when: float) -> bool:
        """Whether we made keys as responder after `when`."""
        return any(p is not None and not p.initiator and p.born > when for p in (self.current, self.next))

    def initiated(self, keypair: Keypair, now: float) -> list[Keypair]:
        """Call with a keypair made as initiator: the response has proven it, so it seals at once.

        A pending `next` becomes a previous one: the peer may already seal under it.
        """
        retired = [pair for pair in (self.next, self.current) if pair is not None]
        self.current = keypair
        self.next = None
        return self._retire(retired, now)

    def responded(self, keypair: Keypair, now: float) -> list[Keypair]:
        """Call with a keypair made as responder: it waits as `next`; one that waited in vain goes."""
        dropped = [] if self.next is None else [self.next]
        self.next = keypair
        return dropped + self._retire([], now)

    def confirmed(self, now: float) -> list[Keypair]:
        """Call when a message authenticated under `next`: the initiator has the keys."""
        retired = [] if self.current is None else [self.current]
        self.current = self.next
        self.next = None
        return self._retire(retired, now)

    def _retire(self, keypairs: list[Keypair], now: float) -> list[Keypair]:
        candidates = keypairs + self.previous
        good = [pair for pair in candidates if now - pair.born < REJECT_AFTER_TIME]
        self.previous = good[:PREVIOUS_MAX]
        return [pair for pair in candidates if pair not in self.previous]

    def all(self) -> list[Keypair]:
        return [pair for pair in (*self.previous, self.current, self.next) if pair is not None]

    def clear(self) -> list[Keypair]:
        """Forgets all."""
        dropped = self.all()
        self.previous = []
        self.current = self.next = None
        return dropped
