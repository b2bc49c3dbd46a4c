"""Which packets have a shape at all, and what their flow is."""

import pytest

from raven.ip import header as h
from raven.ip.shape import Shape, Shapes, counts_on, intact, lengths_fit
from tests.ip.model import Flow

ALL = [Flow(version=version, tcp=tcp, options=b"") for version in (4, 6) for tcp in (True, False)]


def shape_of(packet: bytes, *, udp: bool = True) -> Shape | None:
    return Shapes(udp=udp).of_untrusted(memoryview(packet))[0]


@pytest.mark.parametrize("flow", ALL)
def test_packets_with_a_payload_have_a_shape(flow: Flow) -> None:
    packet = flow.packet(b"x")
    shape = shape_of(packet)
    assert shape is not None
    assert (shape.version, shape.tcp, shape.start) == (flow.version, flow.tcp, flow.start)
    assert shape.header_length == flow.header_length
    assert int.from_bytes(packet[: shape.header_length]) & shape.fixed_mask == shape.fixed
    assert intact(memoryview(packet), shape)


@pytest.mark.parametrize("flow", ALL)
def test_every_truncation_has_none_or_does_not_fit(flow: Flow) -> None:
    packet = flow.packet(b"payload")
    for length in range(len(packet)):
        shape = shape_of(packet[:length])
        assert shape is None or not lengths_fit(memoryview(packet[:length]), shape)


@pytest.mark.parametrize("flow", ALL)
def test_every_broken_bit_is_noticed(flow: Flow) -> None:
    packet = flow.packet(b"payload!")
    shape = shape_of(packet)
    assert shape is not None
    # No checksum covers an IPv6 header's first words, its hop limit and next header.
    uncovered = {*range(4), 6, 7} if flow.version == 6 else set()
    for bit in range(len(packet) * 8):
        if bit // 8 not in uncovered:
            broken = bytearray(packet)
            broken[bit // 8] ^= 1 << bit % 8
            assert not intact(memoryview(broken), shape)


def test_udp_only_where_it_is_asked_for() -> None:
    packet = Flow(tcp=False).packet(b"x")
    assert shape_of(packet) is not None
    assert shape_of(packet, udp=False) is None


def test_shapes_are_remembered() -> None:
    shapes = Shapes(udp=True)
    one, two = (shapes.of_untrusted(memoryview(Flow().packet(payload))) for payload in (b"x", b"yy"))
    assert one[0] is two[0]
    assert one[1] == two[1]
    other = shapes.of_untrusted(memoryview(Flow(source_port=9).packet(b"x")))
    assert other[0] is one[0]
    assert other[1] != one[1]


def test_ids_count_where_fragmenting_is_allowed() -> None:
    for flow, counts in ((Flow(), False), (Flow(dont_fragment=False), True), (Flow(version=6), False)):
        packet = flow.packet(b"x")
        shape = shape_of(packet)
        assert shape is not None
        assert counts_on(memoryview(packet), shape) == counts


def test_a_lying_data_offset() -> None:
    packet = bytearray(Flow(options=b"").packet(b"x" * 20))
    for offset in range(16):
        packet[20 + h.TCP_DATA_OFFSET] = offset << 4
        shape = shape_of(bytes(packet))
        assert shape is None or not intact(memoryview(packet), shape) or offset == 5
