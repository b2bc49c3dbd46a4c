"""The virtio header against the layout of the specification."""

import struct
import sys

from hypothesis import given
from hypothesis import strategies as st

from raven.ip import header as h

u8, u16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)
virtio_headers = st.builds(h.Virtio, u8, u8, u16, u16, u16, u16)


@given(virtio_headers, st.binary(max_size=20))
def test_what_is_packed_is_read_back(header: h.Virtio, tail: bytes) -> None:
    assert len(header.pack()) == h.VIRTIO_LEN == 10
    assert h.Virtio.unpack_from(header.pack() + tail) == header


def test_fields_lie_where_the_specification_puts_them() -> None:
    header = h.Virtio(1, 2, 0x0304, 0x0506, 0x0708, 0x090A)
    fields = (1, 2, 0x0304, 0x0506, 0x0708, 0x090A)
    assert header.pack() == struct.pack(f"{'<' if sys.byteorder == 'little' else '>'}BBHHHH", *fields)


def test_a_plain_header_says_nothing() -> None:
    assert bytes(10) == h.PLAIN
