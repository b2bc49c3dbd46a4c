"""The internet checksum against RFC 1071's example and its word-by-word model."""

import random

from hypothesis import given
from hypothesis import strategies as st

from raven.ip.checksum import checksum, fold, ones_complement_sum
from tests.ip.model import plain_checksum, plain_checksums


def test_example_of_the_rfc() -> None:
    # RFC 1071, section 3: the sum of these bytes is ddf2.
    assert ones_complement_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def test_every_length() -> None:
    data = random.Random(1).randbytes(9001)
    for length, wanted in enumerate(plain_checksums(data)):
        assert checksum(data[:length]) == wanted


@given(st.binary(max_size=300))
def test_the_two_models_agree(data: bytes) -> None:
    assert plain_checksums(data) == [plain_checksum(data[:length]) for length in range(len(data) + 1)]


@given(st.binary(max_size=700))
def test_any_bytes(data: bytes) -> None:
    assert checksum(data) == plain_checksum(data)
    assert checksum(memoryview(data)) == plain_checksum(data)


def test_extremes() -> None:
    for length in (2, 20, 511, 512, 1420, 65535):
        for value in (0x00, 0xFF):
            data = bytes([value]) * length
            assert checksum(data) == plain_checksum(data)


@given(st.binary(min_size=2, max_size=40), st.binary(max_size=600))
def test_start_is_what_else_is_covered(before: bytes, data: bytes) -> None:
    before = before[: len(before) & ~1]
    assert checksum(data, ones_complement_sum(before)) == plain_checksum(before + data)


@given(st.integers(0, 0xFFFFFFFF))
def test_fold_keeps_the_value_modulo_65535(total: int) -> None:
    folded = fold(total)
    assert 0 <= folded <= 0xFFFF
    assert folded % 0xFFFF == total % 0xFFFF
    assert (folded == 0) == (total == 0)
