"""Checksums that the kernel leaves open are finished as it would have done."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.open_checksum import check_open_checksum, complete_checksum
from tests.ip.flows import flows
from tests.ip.model import Flow


@given(flow=flows, payload=st.binary(max_size=1400))
def test_an_open_checksum_is_completed(flow: Flow, payload: bytes) -> None:
    virtio, packet = flow.superpacket(payload, 1)
    buffer = bytearray(packet)
    complete_checksum(virtio, memoryview(buffer))
    expected = flow.packet(payload)
    at = flow.start + flow.checksum_offset
    assert int.from_bytes(buffer[at : at + 2]) % 0xFFFF == int.from_bytes(expected[at : at + 2]) % 0xFFFF
    assert buffer[at : at + 2] != b"\0\0"
    assert buffer[:at] + buffer[at + 2 :] == expected[:at] + expected[at + 2 :]


@given(st.binary(max_size=100), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_any_virtio_header(packet: bytes, start: int, offset: int) -> None:
    virtio = h.Virtio(flags=h.NEEDS_CSUM, csum_start=start, csum_offset=offset)
    with contextlib.suppress(PeerError):
        complete_checksum(virtio, memoryview(bytearray(packet)))
    with contextlib.suppress(PeerError):
        check_open_checksum(virtio, memoryview(packet))


@given(flow=flows, payload=st.binary(min_size=1, max_size=1400), change=st.integers(1, 0xFFFE))
def test_an_open_checksum_starts_with_the_pseudo_header(flow: Flow, payload: bytes, change: int) -> None:
    virtio, packet = flow.superpacket(payload, 1)
    check_open_checksum(virtio, memoryview(packet))
    at = flow.start + flow.checksum_offset
    changed = (int.from_bytes(packet[at : at + 2]) + change) & 0xFFFF
    wrong = packet[:at] + changed.to_bytes(2) + packet[at + 2 :]
    if flow.start in (h.IPV4_LEN, h.IPV6_LEN) and change != 0xFFFF and (change - 1) % 0xFFFF:
        with pytest.raises(PeerError):
            check_open_checksum(virtio, memoryview(wrong))
