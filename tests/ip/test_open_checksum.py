"""Checksums that the kernel leaves open are finished as it would have done."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.open_checksum import complete_checksum
from tests.ip.model import Flow
from tests.ip.test_gso import flows


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
