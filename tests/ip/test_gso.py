"""Cutting superpackets, against the model and against scapy as an encoder of its own."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.gso import Cutter
from tests.ip.flows import flows
from tests.ip.model import Flow


@settings(max_examples=150)
@given(
    flow=flows,
    payload=st.binary(min_size=1, max_size=300),
    repeat=st.integers(1, 200),
    gso_size=st.integers(64, 1500),
    sequence=st.sampled_from([1, 0xFFFFFF00]),
    flags=st.sampled_from([h.ACK, h.ACK | h.PSH, h.ACK | h.FIN | h.PSH | h.CWR, h.ACK | h.CWR]),
    identification=st.sampled_from([0, 0xFFFE]),
)
def test_segments_are_what_the_kernel_would_have_sent(
    flow: Flow, payload: bytes, repeat: int, gso_size: int, sequence: int, flags: int, identification: int
) -> None:
    payload = (payload * repeat)[: 65535 - flow.header_length]
    cutter = Cutter()
    virtio, superpacket = flow.superpacket(
        payload, gso_size, sequence=sequence, flags=flags, identification=identification
    )
    expected = flow.cut(payload, gso_size, sequence=sequence, flags=flags, identification=identification)
    assert cutter.cut(virtio, memoryview(superpacket)) == expected


def test_scratch_of_an_earlier_cut_leaves_no_trace() -> None:
    flow = Flow()
    cutter = Cutter()
    for length in (60000, 5, 1369, 1368, 30001, 1367):
        payload = bytes([length & 0xFF | 1]) * length
        assert cutter.cut(*_view(flow.superpacket(payload, 1368))) == flow.cut(payload, 1368)


def test_every_length_of_a_last_segment() -> None:
    flow = Flow(version=6)
    cutter = Cutter()
    for length in range(1, 3 * 101):
        payload = bytes(range(1, 102)) * 3
        assert cutter.cut(*_view(flow.superpacket(payload[:length], 101))) == flow.cut(payload[:length], 101)


def test_more_layouts_than_are_kept() -> None:
    cutter = Cutter()
    flow = Flow(tcp=False)
    for gso_size in range(600, 640):
        assert cutter.cut(*_view(flow.superpacket(b"x" * 2000, gso_size))) == flow.cut(b"x" * 2000, gso_size)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False])
def test_scapy_computes_the_same_fields(version: int, tcp: bool) -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6

    flow = Flow(version=version, tcp=tcp)
    for segment in Cutter().cut(*_view(flow.superpacket(bytes(range(250)) * 20, 1300, flags=h.ACK | h.PSH))):
        ip: Any = (IP if version == 4 else IPv6)(bytes(segment))
        transport = ip[TCP if tcp else UDP]
        for layer, names in ((ip, ("len", "chksum", "plen")), (transport, ("chksum", "len"))):
            for name in names:
                if name in layer.fields:
                    del layer.fields[name]
        assert bytes(ip) == segment


def test_a_udp_checksum_of_zero_is_spelt_ones() -> None:
    flow = Flow(tcp=False)
    # Chosen so that the checksum of the first segment comes out as zero.
    payload = struct.pack("!H", _zero_maker(flow)) + b"\0\0"
    segments = Cutter().cut(*_view(flow.superpacket(payload, 2)))
    assert segments == flow.cut(payload, 2)
    assert bytes(segments[0][26:28]) == b"\xff\xff"


def _zero_maker(flow: Flow) -> int:
    packet = flow.packet(b"\0\0")
    (value,) = struct.unpack_from("!H", packet, flow.start + h.UDP_CHECKSUM)
    return int(value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gso_type": 3}, "tun-gso-type"),
        ({"gso_type": h.GSO_TCPV6}, "tun-gso-version"),
        ({"flags": 0}, "tun-gso-checksum"),
        ({"csum_offset": 6}, "tun-gso-checksum"),
        ({"csum_start": 22}, "tun-gso-start"),
        ({"csum_start": 24}, "tun-gso-version"),
        ({"csum_start": 60000}, "tun-gso-start"),
        ({"gso_size": 0}, "tun-gso-short"),
    ],
)
def test_a_virtio_header_that_lies_is_refused(change: dict[str, int], reason: str) -> None:
    virtio, superpacket = Flow().superpacket(bytes(5000), 1368)
    with pytest.raises(PeerError) as raised:
        Cutter().cut(virtio._replace(**change), memoryview(superpacket))
    assert raised.value.reason == reason


def test_too_many_segments_are_refused() -> None:
    virtio, superpacket = Flow().superpacket(bytes(60000), 8)
    with pytest.raises(PeerError) as raised:
        Cutter().cut(virtio, memoryview(superpacket))
    assert raised.value.reason == "tun-gso-segments"


@given(
    virtio=st.builds(
        h.Virtio,
        st.integers(0, 255),
        st.sampled_from([1, 4, 5, 0x81, 0x84, 77]),
        st.integers(0, 65535),
        st.integers(0, 2000),
        st.sampled_from([20, 40, 24, 60]) | st.integers(0, 65535),
        st.sampled_from([6, 16]) | st.integers(0, 65535),
    ),
    packet=st.builds(bytes.__add__, st.sampled_from([b"", b"\x45", b"\x60"]), st.binary(max_size=200)),
)
def test_garbage_is_cut_or_refused(virtio: h.Virtio, packet: bytes) -> None:
    try:
        segments = Cutter().cut(virtio, memoryview(packet))
    except PeerError:
        pass
    else:
        assert sum(map(len, segments)) >= len(packet)


def _view(pair: tuple[h.Virtio, bytes]) -> tuple[h.Virtio, memoryview]:
    return pair[0], memoryview(pair[1])
