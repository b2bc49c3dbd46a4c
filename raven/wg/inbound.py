"""The way in: what one burst of datagrams brings, sorted by keypair, opened by its peer, and let through.

A packet comes through when it is an IP packet of the length it claims, from an address that its peer owns.
Above is `device`, below `peer` and `keypair` for transport messages and `admission` for handshakes.
"""

from collections.abc import Sequence

from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.mss import SYN_MAX, clamp_mss
from raven.ip.superpacket import restore_untrusted
from raven.wg.admission import Admission
from raven.wg.endpoint import Endpoint
from raven.wg.inband import is_inband
from raven.wg.keypair import RUN_SEGMENTS_MAX
from raven.wg.messages import TRANSPORT_HEADER, TRANSPORT_OVERHEAD, TYPE_TRANSPORT
from raven.wg.outbox import LONE_MAX, Drop
from raven.wg.packet import (
    ECN_CE,
    FRAGMENT_TYPE,
    IPV4_HEADER_LEN,
    IPV6_HEADER_LEN,
    SOURCE_V4,
    SOURCE_V6,
    mark_congestion,
)
from raven.wg.peer import Peer
from raven.wg.peers import Peers
from raven.wg.scratch import CHUNK
from raven.wg.shared import Shared
from raven.wg.superframe import HEADROOM, PRELUDE
from raven.wg.superframe_peer import OpenedFrame


class Inbound:
    """What a device does with datagrams; it has no state but its peers'."""

    __slots__ = ("_admission", "_outbox", "_peers", "_shared")

    def __init__(self, shared: Shared[Peer], peers: Peers) -> None:
        self._shared = shared
        self._outbox = shared.outbox
        self._peers = peers
        self._admission = Admission(shared, peers)

    def receive(self, datagrams: Sequence[memoryview], endpoint: Endpoint, now: float, ecn: int) -> None:
        """One burst from one source, as `Device.receive` has it.

        Transport messages in a row with one index, consecutive counters and one size are opened as one run.
        """
        self._outbox.begin_inbound()
        keypairs = self._shared.keypairs
        read = TRANSPORT_HEADER.unpack_from
        count = len(datagrams)
        start = 0
        while start < count:
            datagram = datagrams[start]
            size = len(datagram)
            if not TRANSPORT_OVERHEAD <= size <= CHUNK:
                self._outbox.drop(Drop.MALFORMED)
                start += 1
                continue
            kind, index, counter = read(datagram)
            if kind & 0xFF == FRAGMENT_TYPE:
                start += self._receive_fragments(datagrams, start, index, endpoint, ecn, now)
                continue
            if kind != TYPE_TRANSPORT:
                self._admission.receive(kind, bytes(datagram), endpoint, now)
                start += 1
                continue
            end = start + 1
            limit = min(count, start + min(RUN_SEGMENTS_MAX, CHUNK // size))
            while end < limit:
                datagram = datagrams[end]
                length = len(datagram)
                if length > size or length < TRANSPORT_OVERHEAD:
                    break
                if read(datagram) != (TYPE_TRANSPORT, index, counter + end - start):
                    break
                end += 1
                if length < size:
                    break
            found = keypairs.get(index)
            if found is None:
                self._outbox.drop(Drop.UNKNOWN_INDEX, end - start)
            else:
                peer, keypair = found
                run = datagrams if end - start == count else datagrams[start:end]
                packets = peer.receive(keypair, run, counter, endpoint, now)
                if packets:
                    self._deliver(peer, packets, ecn, now)
            start = end

    def receive_lone(
        self, datagram: memoryview, endpoint: Endpoint, now: float, ecn: int
    ) -> memoryview | None:
        """One datagram, as `Device.receive_lone` has it: a transport message with a packet in it, or None."""
        if not TRANSPORT_OVERHEAD < len(datagram) <= LONE_MAX:
            return None
        kind, index, counter = TRANSPORT_HEADER.unpack_from(datagram)
        found = self._shared.keypairs.get(index)
        if kind != TYPE_TRANSPORT or found is None:
            return None
        peer, keypair = found
        packet = peer.receive_lone(keypair, datagram, counter, endpoint, now)
        if packet is None:
            return None
        self._deliver(peer, [packet], ecn, now)
        packets = self._outbox.packets
        return packets.pop() if packets else packet[:0]

    def _receive_fragments(
        self,
        datagrams: Sequence[memoryview],
        start: int,
        index: int,
        endpoint: Endpoint,
        ecn: int,
        now: float,
    ) -> int:
        """Takes fragments of one superframe from `start` on; how many."""
        found = self._shared.keypairs.get(index)
        if found is None:
            self._outbox.drop(Drop.UNKNOWN_INDEX)
            return 1
        peer, keypair = found
        taken, opened = peer.receive_fragments(keypair, datagrams, start, endpoint=endpoint, ecn=ecn, now=now)
        if opened is not None:
            self._deliver_superpacket(peer, opened)
        return taken

    def _deliver_superpacket(self, peer: Peer, opened: OpenedFrame) -> None:
        """Lets a superpacket through if it is one and comes from the peer's own address."""
        gso_size, zero = PRELUDE.unpack_from(opened.room, HEADROOM)
        try:
            if zero:
                raise PeerError(Drop.INNER_MALFORMED, "a superframe's prelude ends with a zero")
            length = restore_untrusted(opened.room, gso_size)
        except PeerError as error:
            self._outbox.drop(error.reason)
            return
        packet = opened.room[h.VIRTIO_LEN : length]
        if packet[0] >> 4 == 4:
            owner = self._peers.owner_of(SOURCE_V4.unpack_from(packet)[2])
        else:
            _, _, high, low = SOURCE_V6.unpack_from(packet)
            owner = self._peers.owner_of((high, low))
        if owner is not peer:
            self._outbox.drop(Drop.SOURCE_NOT_ALLOWED)
            return
        if opened.ecn == ECN_CE:
            mark_congestion(packet)
        self._outbox.superpackets.append((len(self._outbox.packets), opened.room[:length]))

    def _deliver(self, peer: Peer, packets: list[memoryview], ecn: int, now: float) -> None:
        """Cuts padding off, and lets through what comes from the peer's own addresses."""
        outbox = self._outbox
        out = outbox.packets
        owner_of = self._peers.owner_of
        last_key: tuple[int, ...] = ()
        total = 0
        for packet in packets:
            size = len(packet)
            version = packet[0] >> 4
            if version == 4 and size >= IPV4_HEADER_LEN:
                key = SOURCE_V4.unpack_from(packet)
            elif version == 6 and size >= IPV6_HEADER_LEN:
                key = SOURCE_V6.unpack_from(packet)
            else:
                if is_inband(packet):
                    peer.inband_received(packet, now)
                else:
                    outbox.drop(Drop.INNER_MALFORMED)
                continue
            if key != last_key:
                last_key = ()  # `total` is about this packet from here on, be it let through or not
                if version == 4:
                    total = key[1]
                    shortest, owner = IPV4_HEADER_LEN, owner_of(key[2])
                else:
                    total = key[1] + IPV6_HEADER_LEN
                    shortest, owner = IPV6_HEADER_LEN, owner_of(key[2:])
                if total < shortest:
                    outbox.drop(Drop.INNER_MALFORMED)
                    continue
                if owner is not peer:
                    outbox.drop(Drop.SOURCE_NOT_ALLOWED)
                    continue
                last_key = key
            if total != size:
                if total > size:
                    outbox.drop(Drop.INNER_MALFORMED)
                    continue
                packet = packet[:total]
            if ecn == ECN_CE:
                mark_congestion(packet)
            if total <= SYN_MAX:
                clamp_mss(packet, peer.mtu)
            out.append(packet)
