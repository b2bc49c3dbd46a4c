"""Joining bursts: what is joined must cut into the same packets again, nothing may be lost or overtaken."""

import dataclasses
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raven.ip import burst
from raven.ip import header as h
from raven.ip.gro import Joined, Joiner
from raven.ip.gso import Cutter
from tests.ip.model import Flow

TCP4 = Flow()
TCP6 = Flow(version=6)
UDP4 = Flow(tcp=False)


def join(packets: list[bytes], *, udp: bool = True) -> list[bytes]:
    """The writes for `packets`, each a virtio header and a packet in one."""
    return [_flat(write) for write in Joiner(udp=udp).join([memoryview(packet) for packet in packets])]


def cut(write: bytes) -> list[bytes]:
    """The packets that a kernel makes of one write."""
    virtio = h.Virtio.unpack_from(write)
    packet = write[h.VIRTIO_LEN :]
    if virtio.gso_type == h.GSO_NONE:
        assert virtio == h.Virtio()
        return [packet]
    return [bytes(segment) for segment in Cutter().cut(virtio, memoryview(packet))]


def _flat(write: Joined) -> bytes:
    return b"".join(write)


@settings(max_examples=150)
@given(
    flow=st.builds(
        Flow,
        version=st.sampled_from([4, 6]),
        tcp=st.booleans(),
        options=st.sampled_from([b"", b"\x01\x01\x08\x0a" + b"abcdefgh"]),
        dont_fragment=st.booleans(),
        traffic_class=st.sampled_from([0, 1]),
    ),
    length=st.integers(2, 65000),
    gso_size=st.integers(400, 1500),
    flags=st.sampled_from([h.ACK, h.ACK | h.PSH]),
    sequence=st.sampled_from([7, 0xFFFFFF00]),
    identification=st.sampled_from([0, 0xFFFE]),
)
@example(Flow(tcp=False), 44146, 545, h.ACK, 7, 0)  # one byte in the last packet
def test_joining_what_was_cut_gives_the_superpacket(
    flow: Flow, length: int, gso_size: int, flags: int, sequence: int, identification: int
) -> None:
    payload = random.Random(length).randbytes(length)
    packets = flow.cut(payload, gso_size, sequence=sequence, flags=flags, identification=identification)
    virtio, superpacket = flow.superpacket(
        payload, gso_size, sequence=sequence, flags=flags, identification=identification
    )
    writes = join(packets)
    if sum(map(len, packets)) < burst.WORTH_JOINING or len(packets) == 1:
        assert writes == [h.PLAIN + packet for packet in packets]
    elif flags & h.PSH and length % gso_size == 0 and len(packets) == 2:
        assert [packet for write in writes for packet in cut(write)] == packets
    else:
        assert writes == [virtio.pack() + superpacket]


@st.composite
def bursts(draw: st.DrawFn) -> list[bytes]:
    """Stretches of a few flows, mixed, with what may not be joined in between."""
    flows = [
        TCP4,
        TCP6,
        UDP4,
        dataclasses.replace(TCP4, source_port=2),
        dataclasses.replace(TCP4, options=b""),
    ]
    at = dict.fromkeys(range(len(flows)), 1)
    packets: list[bytes] = []
    for _ in range(draw(st.integers(1, 8))):
        which = draw(st.integers(0, len(flows) - 1))
        flow = flows[which]
        kind = draw(st.sampled_from(["stretch", "stretch", "one", "ack", "gap", "fin", "broken", "noise"]))
        size = draw(st.sampled_from([1368, 500, 33]))
        if kind == "gap":
            at[which] += 9
        flags = h.ACK | (h.FIN if kind == "fin" else 0) | draw(st.sampled_from([0, h.PSH]))
        payload = bytes([len(packets) & 0xFF]) * (0 if kind == "ack" else size * draw(st.integers(2, 12)) - 3)
        if kind == "noise":
            packets.append(draw(st.binary(max_size=90)))
            continue
        if kind in ("one", "ack"):
            made = [flow.packet(payload[:size], sequence=at[which], flags=flags)]
        else:
            made = flow.cut(payload, size, sequence=at[which], flags=flags)
        if kind == "broken":
            hurt = draw(st.integers(0, len(made) - 1))
            byte = draw(st.integers(0, len(made[hurt]) - 1))
            made[hurt] = made[hurt][:byte] + bytes([made[hurt][byte] ^ 0x40]) + made[hurt][byte + 1 :]
        at[which] += len(payload)
        packets += made
    if draw(st.booleans()):
        # Flows interleaved, and out of order.
        packets = packets[::3] + packets[1::3] + packets[2::3]
    return packets


@settings(max_examples=200, deadline=None)
@given(bursts())
def test_nothing_is_lost_or_overtaken(packets: list[bytes]) -> None:
    again = [packet for write in join(packets) for packet in cut(write)]
    assert sorted(map(_without_id, again)) == sorted(map(_without_id, packets))
    for flow in {_flow_of(packet) for packet in packets}:
        mine = [_without_id(packet) for packet in packets if _flow_of(packet) == flow]
        assert [_without_id(packet) for packet in again if _flow_of(packet) == flow] == mine


def _without_id(packet: bytes) -> bytes:
    """Without what means nothing in an atomic IPv4 packet (RFC 6864): its id, and so the sum over it."""
    if len(packet) >= 20 and packet[0] == 0x45 and packet[6] & 0x40:
        return packet[:4] + packet[6:10] + packet[12:]
    return packet


def _flow_of(packet: bytes) -> bytes:
    version = packet[0] >> 4 if len(packet) > 48 else 0
    return (
        packet[9:10] + packet[12:24]
        if version == 4
        else packet[6:7] + packet[8:44]
        if version == 6
        else packet
    )


@pytest.mark.parametrize("flow", [TCP4, TCP6, UDP4])
@pytest.mark.parametrize("count", [4, 20])
def test_a_broken_packet_goes_alone(flow: Flow, count: int) -> None:
    packets = flow.cut(bytes(range(250)) * 6 * count, 1500)
    for at in (0, 1, count // 2, count - 1):
        for byte in (4, flow.start + flow.checksum_offset, flow.header_length, len(packets[at]) - 1):
            broken = packets.copy()
            broken[at] = broken[at][:byte] + bytes([broken[at][byte] ^ 1]) + broken[at][byte + 1 :]
            writes = join(broken)
            assert h.PLAIN + broken[at] in writes
            assert sorted(packet for write in writes for packet in cut(write)) == sorted(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"acknowledgement": 5},
        {"window": 9},
        {"options": b"\x01\x01\x08\x0a" + b"x" * 8},
        {"options": b""},
        {"traffic_class": 3},
        {"hop_limit": 63},
        {"source_port": 1},
        {"dont_fragment": False},
    ],
)
@pytest.mark.parametrize("count", [3, 30])
def test_packets_that_differ_are_not_joined(change: dict[str, int], count: int) -> None:
    other = dataclasses.replace(TCP4, **change)  # type: ignore[arg-type]
    first = TCP4.cut(bytes(1000) * count, 1000, identification=1)
    second = other.cut(bytes(1000) * count, 1000, sequence=1 + 1000 * count, identification=1 + count)
    assert [len(cut(write)) for write in join(first + second)] == [count, count]


@pytest.mark.parametrize("count", [3, 30])
def test_what_may_not_be_joined_passes_as_it_is(count: int) -> None:
    big = bytes(1000)
    kinds = [
        TCP4.packet(big, flags=h.ACK | h.FIN),
        TCP4.packet(big, flags=h.ACK | 0x04),  # RST
        TCP4.packet(big, flags=0x02),  # SYN
        TCP4.packet(big, flags=h.ACK | h.CWR),
        TCP4.packet(b""),
        b"",
        b"\x45",
        b"\x60" + bytes(60),
        bytes(3000),
    ]
    for kind in kinds:
        assert join([kind] * count) == [h.PLAIN + kind] * count


def test_udp_is_joined_only_where_the_kernel_takes_it() -> None:
    packets = UDP4.cut(bytes(20000), 1000)
    assert len(join(packets)) == 1
    assert join(packets, udp=False) == [h.PLAIN + packet for packet in packets]


def test_a_udp_datagram_without_checksum_is_not_joined() -> None:
    packets = [packet[:26] + b"\0\0" + packet[28:] for packet in UDP4.cut(bytes(20000), 1000)]
    assert join(packets) == [h.PLAIN + packet for packet in packets]


def test_ids_of_packets_that_may_be_fragmented_must_count_on() -> None:
    flow = Flow(dont_fragment=False)
    for count in (4, 20):
        packets = [flow.packet(bytes(1000), sequence=1 + 1000 * at, identification=7) for at in range(count)]
        assert join(packets) == [h.PLAIN + packet for packet in packets]


@pytest.mark.parametrize(
    "other", [TCP6, UDP4, dataclasses.replace(TCP4, dont_fragment=False), Flow(version=6, tcp=False)]
)
def test_a_stretch_of_one_size_may_be_of_several_kinds(other: Flow) -> None:
    size = 1200
    payload = bytes(range(200)) * 100
    first = TCP4.cut(payload, size - TCP4.header_length)[:12]
    second = other.cut(payload, size - other.header_length)[:12]
    ids = [packet for at, packet in enumerate(second) if at % 2 == 0]
    for packets in (first + second, second + first, first + ids, ids + first):
        writes = join(packets)
        again = [packet for write in writes for packet in cut(write)]
        assert list(map(_without_id, again)) == list(map(_without_id, packets))
    assert [len(cut(write)) for write in join(first + second)] == [12, 12]


def test_a_superpacket_never_exceeds_its_length_field() -> None:
    for size in (1368, 16000, 33):
        packets = TCP4.cut(b"x" * 65000, size) + TCP4.cut(b"y" * 65000, size, sequence=65001)
        writes = join(packets)
        assert max(map(len, writes)) <= 65535 + h.VIRTIO_LEN
        assert [_without_id(packet) for write in writes for packet in cut(write)] == [
            *map(_without_id, packets)
        ]


@given(st.lists(st.binary(max_size=120) | st.binary(min_size=60, max_size=60), max_size=40))
def test_garbage_never_raises(packets: list[bytes]) -> None:
    prefixes = [b"\x45" + bytes(8) + b"\x06", b"\x60\0\0\0\0\0\x06", b"\x45" + bytes(8) + b"\x11", b""]
    burst = [prefixes[at % 4] + packet + bytes(100) for at, packet in enumerate(packets)]
    assert sorted(join(burst)) == sorted(h.PLAIN + packet for packet in burst)
