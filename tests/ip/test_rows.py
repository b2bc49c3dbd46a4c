"""Sums of rows and of long buffers against the naive model."""

import random

import numpy as np

from raven.ip.checksum import host_order, ones_complement_sum
from raven.ip.rows import checksums, long_sum, row_sums
from tests.ip.model import plain_checksum


def test_long_sums_are_sums() -> None:
    source = random.Random(3)
    for length in (0, 1, 2, 511, 512, 1419, 1420, 9001, 65535):
        for data in (source.randbytes(length), bytes(length), b"\xff" * length):
            assert long_sum(memoryview(data)) == ones_complement_sum(data)


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
