"""What a sender lets go whole, its receiver restores; and nothing else gets past."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.gso import Cutter
from raven.ip.superpacket import SEGMENTS_MAX, restore_untrusted, segment_size
from tests.ip.model import Flow, plain_checksum

flows = st.builds(Flow, version=st.sampled_from([4, 6]), tcp=st.booleans(), traffic_class=st.integers(0, 255))


def room(packet: bytes) -> memoryview:
    return memoryview(bytearray(bytes(h.VIRTIO_LEN) + packet))


@given(flow=flows, gso_size=st.integers(1, 1400), count=st.integers(2, 40), rest=st.integers(0, 1399))
def test_a_superpacket_is_restored_and_cut_into_what_the_kernel_would_have_sent(
    flow: Flow, gso_size: int, count: int, rest: int
) -> None:
    payload = bytes(i * 7 & 0xFF for i in range(gso_size * count - rest % gso_size))
    virtio, packet = flow.superpacket(payload, gso_size)
    assert segment_size(virtio, memoryview(packet)) == flow.header_length + gso_size

    # The open checksum is the receiver's own work: what came in its place does not matter.
    at = flow.start + flow.checksum_offset
    spoilt = room(packet[:at] + b"\xba\xad" + packet[at + 2 :] + bytes(15))
    length = restore_untrusted(spoilt, gso_size)
    assert length == h.VIRTIO_LEN + len(packet)
    assert h.Virtio.unpack_from(spoilt) == virtio
    restored = spoilt[h.VIRTIO_LEN : length]
    assert restored == packet
    segments = list(map(bytes, Cutter().cut(virtio, restored)))
    assert segments == flow.cut(payload, gso_size)


def test_congestion_window_reduced_is_told_to_the_kernel() -> None:
    virtio, packet = Flow().superpacket(bytes(3000), 1000, flags=h.ACK | h.CWR)
    with_ecn = virtio._replace(gso_type=virtio.gso_type | h.GSO_ECN)
    assert segment_size(with_ecn, memoryview(packet))
    restored = room(packet)
    restore_untrusted(restored, 1000)
    assert h.Virtio.unpack_from(restored) == with_ecn


def altered(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


V4, V6, UDP = Flow(), Flow(version=6), Flow(tcp=False)
PACKET, PACKET6, DATAGRAM = (flow.superpacket(bytes(3000), 1000)[1] for flow in (V4, V6, UDP))


@pytest.mark.parametrize(
    ("packet", "gso_size"),
    [
        (b"", 1000),
        (PACKET[:19], 1000),
        (PACKET[:30], 1000),
        (PACKET[:-1], 1000),  # shorter than its IP header says
        (PACKET6[:39], 1000),
        (PACKET6[:-1], 1000),
        (PACKET, 0),
        (PACKET, 3000),  # one segment is none
        (PACKET, 3000 // (SEGMENTS_MAX + 1)),  # too many
        (altered(PACKET, 0, b"\x46"), 1000),  # options
        (altered(PACKET, 0, b"\x55"), 1000),  # version 5
        (altered(PACKET, 6, b"\x20\x00"), 1000),  # more fragments follow
        (altered(PACKET, 6, b"\x00\x01"), 1000),  # not the first one
        (altered(PACKET, 2, b"\x00\x10"), 1000),  # shorter than its headers
        (altered(PACKET, 9, b"\x01"), 1000),  # ICMP
        (altered(PACKET, 32, b"\x40"), 1000),  # a TCP header of 16 bytes
        (altered(PACKET, 33, b"\x12"), 1000),  # SYN
        (altered(PACKET, 33, b"\x14"), 1000),  # RST
        (altered(PACKET, 33, b"\x30"), 1000),  # URG
        (altered(PACKET6, 6, b"\x2c"), 1000),  # a fragment header
        (altered(DATAGRAM, 24, b"\x00\x08"), 1000),  # another length in the UDP header
    ],
)
def test_what_is_no_superpacket_is_refused(packet: bytes, gso_size: int) -> None:
    with pytest.raises(PeerError) as caught:
        restore_untrusted(room(packet), gso_size)
    assert caught.value.reason == "inner-malformed"


def test_what_the_sender_cannot_vouch_for_goes_as_segments() -> None:
    virtio, packet = V4.superpacket(bytes(3000), 1000)
    view = memoryview(packet)
    assert segment_size(virtio._replace(flags=0), view) == 0
    assert segment_size(virtio._replace(csum_start=24), view) == 0
    assert segment_size(virtio._replace(gso_type=h.GSO_TCPV6), view) == 0
    assert segment_size(virtio, memoryview(packet + b"\0")) == 0
    assert segment_size(h.Virtio(), view) == 0


@given(packet=st.binary(max_size=200), gso_size=st.integers(0, 65535))
def test_random_bytes_never_raise_anything_else(packet: bytes, gso_size: int) -> None:
    for start in (b"", b"\x45", b"\x60"):
        try:
            restore_untrusted(room(start + packet), gso_size)
        except PeerError:
            continue


def test_the_model_agrees_on_the_open_checksum() -> None:
    """Once its payload is added, the restored pseudo-header's sum gives a checksum that checks."""
    _, packet = V6.superpacket(bytes(range(200)), 100)
    restored = room(packet)
    restore_untrusted(restored, 100)
    body = bytes(restored[h.VIRTIO_LEN + V6.start :])
    value = plain_checksum(body)
    whole = altered(body, h.TCP_CHECKSUM, value.to_bytes(2, "big"))
    assert plain_checksum(V6.pseudo_header(len(whole)) + whole) == 0
