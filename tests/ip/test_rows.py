"""Sums of rows and of long buffers against the naive model."""

import random

import numpy as np

from raven.ip.checksum import host_order, ones_complement_sum
from raven.ip.rows import checksums, long_sum, row_sums
from tests.ip.model import plain_checksum, plain_checksums


def test_long_sums_are_sums() -> None:
    source = random.Random(3)
    for length in (0, 1, 2, 511, 512, 1419, 1420, 9001, 65535):
        for data in (source.randbytes(length), bytes(length), b"\xff" * length):
            assert long_sum(memoryview(data)) == ones_complement_sum(data)


def test_long_sums_of_every_length() -> None:
    data = random.Random(4).randbytes(9001)
    for length, wanted in enumerate(plain_checksums(data)):
        assert long_sum(memoryview(data)[:length]) ^ 0xFFFF == wanted


def test_rows_of_every_width() -> None:
    """Three rows beside each other; what is odd is filled up with a zero, as segments are in their rows."""
    source = random.Random(5)
    contents = [source.randbytes(9001) for _ in range(3)]
    wanted = [plain_checksums(content) for content in contents]
    for length in range(1, 9002):
        width = length + length % 2
        data = b"".join(content[:length].ljust(width, b"\0") for content in contents)
        rows = np.frombuffer(data, np.uint16).reshape(3, width // 2)
        found = [host_order(value) for value in checksums(row_sums(rows)).tolist()]
        assert found == [of_one[length] for of_one in wanted]


def test_rows_are_summed_like_single_buffers() -> None:
    source = random.Random(2)
    for width in (8, 20, 64, 1424, 65536):
        data = source.randbytes(3 * width)
        rows = np.frombuffer(data, np.uint8).reshape(3, width).view(np.uint16)
        for value, at in zip(checksums(row_sums(rows)).tolist(), range(0, 3 * width, width), strict=True):
            assert host_order(value) == plain_checksum(data[at : at + width])


def test_checksums_spell_zero_as_the_network_does() -> None:
    sums = np.array([0xFFFF, 0x1FFFE, 1, 0xFFFE], np.uint32)
    assert checksums(sums).tolist() == [0, 0, 0xFFFE, 1]
