"""A WireGuard device without I/O: feed it datagrams, packets and the time, then drain what it wants done.

Above stands a driver (`raven.dataplane.engine`, or a test's harness in virtual time); below stand the peers.
Nothing here waits, logs or reads a clock. What the network sends never raises: it is counted in `counters`
by reason and dropped.
"""

from collections.abc import Callable, Container, Generator, Sequence

from raven.ip import header as h
from raven.ip.mss import SYN_MAX, clamp_mss
from raven.ip.superpacket import segment_size
from raven.keys import PrivateKey
from raven.wg.configuration import (
    NO_PRIVATE_KEY,
    DeviceChange,
    DeviceState,
    Status,
    SuperframeCipher,
)
from raven.wg.endpoint import Endpoint
from raven.wg.events import Event
from raven.wg.inbound import Inbound
from raven.wg.outbox import Drop, Transmit
from raven.wg.packet import (
    DESTINATION_V4,
    DESTINATION_V6,
    ECN_CE,
    ECN_ECT0,
    ECN_MASK,
    FRAGMENT_V4,
    IPV4_HEADER_LEN,
    IPV6_HEADER_LEN,
    PROTOCOL_FRAGMENT,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    is_tcp,
    may_be_nested,
    nested_hops,
    outer_tos_of_word,
)
from raven.wg.peer import Peer
from raven.wg.peers import Peers, Prepared
from raven.wg.primitives import DhPrivateKey
from raven.wg.shared import Identity, Shared

__all__ = ["Device", "Transmit"]


class Device:
    """One WireGuard interface: its key, its peers, their allowed IPs.

    Calling rule: after receive, send, configure or handle_timeout drain `transmits()`, `packets()` and
    `events()`. Several calls may precede one drain; what was drained is invalid at the next call.
    """

    def __init__(
        self,
        *,
        tai64n: Callable[[], bytes],
        random: Callable[[int], bytes],
        wall: Callable[[], float],
        route_mtu: Callable[[Endpoint], int] = lambda _: 0,
        mtu: int = 1420,
        superframe_ciphers: Sequence[SuperframeCipher] = tuple(SuperframeCipher),
    ) -> None:
        """`tai64n()`: 12 bytes (`messages.tai64n`); `random(n)`: n secret bytes; `wall()`: Unix seconds;
        `route_mtu(endpoint)`: bytes of an outer packet that the host knows to fit the path, 0 for unknown;
        `superframe_ciphers`: those that this host is good at, best first; told to whoever asks.
        """
        self._superframe_ciphers = tuple(superframe_ciphers)
        self.listen_port = 0  # what the driver bound; it sets this after binding port 0
        self.fwmark = 0
        self._shared: Shared[Peer] = Shared(
            tai64n=tai64n, random=random, wall=wall, route_mtu=route_mtu, mtu=mtu
        )
        self._outbox = self._shared.outbox
        self._peers = Peers(self._shared)
        self._inbound = Inbound(self._shared, self._peers)

    # Packets out --------------------------------------------------------------------------------------

    def send(self, packets: Sequence[memoryview], now: float) -> None:
        """Plaintext IP packets, borrowed until the call returns; the MSS of a TCP SYN is lowered in place.

        Packets in a row of one size, destination and ECN (the last may be shorter) leave as one Transmit.
        """
        self._outbox.begin()
        owner_of = self._peers.owner_of
        count = len(packets)
        start = 0
        while start < count:
            packet = packets[start]
            size = len(packet)
            version = packet[0] >> 4 if size else 0
            if version == 4 and size >= IPV4_HEADER_LEN:
                shortest, read = IPV4_HEADER_LEN, DESTINATION_V4.unpack_from
            elif version == 6 and size >= IPV6_HEADER_LEN:
                shortest, read = IPV6_HEADER_LEN, DESTINATION_V6.unpack_from
            else:
                self._outbox.drop(Drop.NOT_IP)
                start += 1
                continue
            key = read(packet)
            end = start + 1
            while end < count:
                packet = packets[end]
                length = len(packet)
                if length > size or length < shortest or read(packet) != key:
                    break
                end += 1
                if length < size:
                    break
            peer = owner_of(key[2] if version == 4 else key[2:])
            hops = nested_hops(packets[start]) if may_be_nested(version, key[1]) else 0
            if peer is None:
                self._outbox.drop(Drop.NO_PEER, end - start)
            elif hops < 0:
                self._outbox.drop(Drop.LOOP, end - start)
            else:
                run = packets if end - start == count else packets[start:end]
                if size <= SYN_MAX and is_tcp(version, key[1]):
                    for packet in run:
                        clamp_mss(packet, peer.mtu)
                peer.send(run, size, outer_tos_of_word(key[0]), now, hops)
            start = end

    def send_lone(self, buffer: memoryview, start: int, end: int, now: float) -> Transmit | None:
        """`send` for the one packet between `start` and `end` of `buffer`, on a short way: what to send.

        None: it needs more than keys that are there, and has to go through `send`. The MSS is lowered in
        place, and up to 15 bytes behind the packet are overwritten. Call it with nothing left to drain; what
        it returns is valid until the next packet, and other things may be ready to be drained then.
        """
        # What a process touches is what a lone packet costs, so little is called from here.
        packet = buffer[start:end]
        size = end - start
        version = packet[0] >> 4 if size else 0
        address: int | tuple[int, int]
        if version == 4 and size >= IPV4_HEADER_LEN:
            word, middle, address = DESTINATION_V4.unpack_from(packet)
            protocol, ecn, fragment = middle & 0xFF, word & ECN_MASK, middle >> 16 & FRAGMENT_V4
        elif version == 6 and size >= IPV6_HEADER_LEN:
            word, middle, high, low = DESTINATION_V6.unpack_from(packet)
            address = high, low
            protocol, ecn = middle >> 8, word >> 4 & ECN_MASK
            fragment = protocol == PROTOCOL_FRAGMENT
        else:
            return None
        peer = self._peers.owner_of(address)
        if peer is None or fragment or (protocol == PROTOCOL_UDP and nested_hops(packet)):
            return None
        if protocol == PROTOCOL_TCP and size <= SYN_MAX:
            clamp_mss(packet, peer.mtu)
        return peer.send_lone(buffer, start, size, ECN_ECT0 if ecn == ECN_CE else ecn, now)

    @property
    def superframes(self) -> bool:
        """Whether it is worth to try `send_superpacket`."""
        return self._peers.superframes

    def send_superpacket(self, buffer: memoryview, size: int, now: float) -> bool:
        """Sends a superpacket whole, where its peer takes superframes and the path is good for them.

        `buffer` starts with a virtio header and `size` bytes of it are in use; the rest and the header may be
        overwritten. False: nothing was sent and nothing changed, and it has to be cut for `send`.
        """
        self._outbox.begin()
        packet = buffer[h.VIRTIO_LEN : size]
        virtio = h.Virtio.unpack_from(buffer)
        segment = segment_size(virtio, packet)
        if not segment:
            return False
        if packet[0] >> 4 == 4:
            word, middle, *address = DESTINATION_V4.unpack_from(packet)
            version, peer = 4, self._peers.owner_of(address[0])
        else:
            word, middle, *address = DESTINATION_V6.unpack_from(packet)
            version, peer = 6, self._peers.owner_of((address[0], address[1]))
        if peer is None or peer.superframes.cipher is None:
            return False
        hops = nested_hops(packet) if may_be_nested(version, middle) else 0
        return hops >= 0 and peer.send_superpacket(
            buffer,
            h.VIRTIO_LEN,
            size - h.VIRTIO_LEN,
            gso_size=virtio.gso_size,
            segment=segment,
            tos=outer_tos_of_word(word),
            hops=hops,
            now=now,
        )

    # Datagrams in -------------------------------------------------------------------------------------

    def receive(
        self, datagrams: Sequence[memoryview], endpoint: Endpoint, now: float, *, ecn: int = 0
    ) -> None:
        """One burst from one source; borrowed until the call returns. `ecn`: the outer header's two bits."""
        self._inbound.receive(datagrams, endpoint, now, ecn)

    def receive_lone(
        self, datagram: memoryview, endpoint: Endpoint, now: float, *, ecn: int = 0
    ) -> memoryview | None:
        """`receive` for one datagram, on a short way: its packet, empty if that was dropped.

        None: nothing was done, and it has to go through `receive`. Otherwise as `send_lone`.
        """
        return self._inbound.receive_lone(datagram, endpoint, now, ecn)

    # Configuration ------------------------------------------------------------------------------------

    def configure(self, change: DeviceChange, now: float) -> None:
        """Applies all of `change`, or nothing (UapiError). The driver rebinds if port or mark differ then."""
        steps = self.preparing(change)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                self.apply(change, end.value, now)
                return

    def preparing(self, change: DeviceChange) -> Generator[None, None, Prepared]:
        """The long part of `configure`, in steps of some milliseconds; packets may pass between them.

        The device is as it was until `apply`. No other change may be prepared or applied meanwhile.
        """
        identity = self._shared.identity
        own = None if identity is None else identity.dh.public
        if change.private_key is not None:
            own = (
                None
                if change.private_key == NO_PRIVATE_KEY
                else DhPrivateKey(PrivateKey.clamped(change.private_key)).public
            )
        return self._peers.preparing(change, own)

    def apply(self, change: DeviceChange, prepared: Prepared, now: float) -> None:
        """The short part of `configure`: all of `change`, as it was prepared."""
        self._outbox.begin()
        rekeyed = change.private_key is not None and self._set_private_key(change.private_key)
        before = self.listen_port, self.fwmark
        if change.listen_port is not None:
            self.listen_port = change.listen_port
        if change.fwmark is not None:
            self.fwmark = change.fwmark
        if (self.listen_port, self.fwmark) != before:
            # Routes may depend on either, so another source may be right.
            for peer in self._peers:
                peer.source_moved()
        self._peers.apply(prepared, now)
        if rekeyed:
            # Only now: to the peers that stay, where they are by now. A handshake that a later part of the
            # same change overtakes would cost its peer five seconds.
            for peer in self._peers:
                if peer.keepalive:
                    peer.send_keepalive(now)

    def _set_private_key(self, private: PrivateKey) -> bool:
        """Whether it is another one."""
        clamped = NO_PRIVATE_KEY if private == NO_PRIVATE_KEY else PrivateKey.clamped(private)
        shared = self._shared
        if clamped == (NO_PRIVATE_KEY if shared.identity is None else shared.identity.private):
            return False
        shared.identity = None if clamped == NO_PRIVATE_KEY else Identity(clamped, shared.random)
        if shared.identity is not None:
            self._peers.remove(shared.identity.dh.public)
        for peer in self._peers:
            peer.identity_changed()
        return True

    def state(self) -> DeviceState:
        """What `get=1` answers."""
        identity = self._shared.identity
        return DeviceState(
            private_key=NO_PRIVATE_KEY if identity is None else identity.private,
            listen_port=self.listen_port,
            fwmark=self.fwmark,
            peers=self._peers.states(),
            counters=dict(self.counters),
        )

    def status(self) -> Status:
        """What `raven_status=1` answers; offloads are the driver's to add."""
        return Status(mtu=self.mtu, peers=self._peers.statuses(), superframe_ciphers=self._superframe_ciphers)

    def link_up(self, now: float) -> None:
        """Call when the interface comes up: handshakes may start. A new device counts as up."""
        if not self._shared.up:
            self._shared.up = True
            self._outbox.begin()
            for peer in self._peers:
                peer.link_up(now)

    def endpoints(self) -> list[Endpoint]:
        """Where the peers are, as far as that is known."""
        return [peer.endpoint for peer in self._peers if peer.endpoint is not None]

    def sources_moved(self, endpoints: Container[Endpoint]) -> None:
        """Call when answers to `endpoints` should leave from whatever address the host chooses."""
        for peer in self._peers:
            if peer.endpoint is not None and peer.endpoint in endpoints:
                peer.source_moved()

    def link_down(self) -> None:
        """Call when the interface goes down: all keys and staged packets go, as in the kernel. Peers stay."""
        if self._shared.up:
            self._shared.up = False
            for peer in self._peers:
                peer.link_down()

    @property
    def counters(self) -> dict[str, int]:
        """Drops by reason; `outbox.Drop` says what each means."""
        return self._outbox.counters

    def dropped(self, reason: str) -> None:
        """Call when the driver dropped something, for a reason of its own."""
        self._outbox.drop(reason)

    @property
    def mtu(self) -> int:
        """Bytes of an inner packet; padding never exceeds it."""
        return self._shared.mtu

    @mtu.setter
    def mtu(self, mtu: int) -> None:
        before, self._shared.mtu = self._shared.mtu, mtu
        if mtu > before:
            for peer in self._peers:
                peer.path.link_raised(before)

    # Clock and drains ---------------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> None:
        """Runs every timer that is due at `now`."""
        self._outbox.begin()
        for timers in self._shared.agenda.pop_due(now):
            peer = self._peers.get(timers.owner)
            if peer is not None:
                peer.handle_timeout(now)

    def next_timeout(self) -> float | None:
        """When to call handle_timeout, in the clock of `now`; it may be early, never late. None: no timer."""
        return self._shared.agenda.next()

    @property
    def pending(self) -> bool:
        """Whether there is anything to send or to report, or `next_timeout` may have become earlier."""
        outbox = self._outbox
        return bool(outbox.transmits or outbox.events or self._shared.agenda.changed)

    def transmits(self) -> list[Transmit]:
        """Drains what to send, in order."""
        return self._outbox.take_transmits()

    def packets(self) -> list[memoryview]:
        """Drains decrypted inner packets, writable, valid until the next receive."""
        return self._outbox.take_packets()

    def superpackets(self) -> list[tuple[int, memoryview]]:
        """Drains opened superpackets behind their virtio headers, each with how many packets come before it.

        Drain it together with `packets`; it is valid as long.
        """
        return self._outbox.take_superpackets()

    def events(self) -> list[Event]:
        """Drains what happened."""
        return self._outbox.take_events()
