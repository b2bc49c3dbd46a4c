"""The internet checksum (RFC 1071) of one buffer and of many rows at once.

One's complement sums do not care for byte order as long as all words are read and the result is written in
the same one. So rows are summed as the host's own 16-bit words; only `ones_complement_sum` speaks big-endian.
"""

import sys
from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]
Sums = npt.NDArray[np.uint32]

_ONE: Final = np.uint32(1)
_MODULUS: Final = np.uint32(0xFFFF)
_LITTLE: Final = sys.byteorder == "little"
# From here on numpy's fixed cost is below that of Python's long division, in bytes (measured: 1.2 against
# 0.3 µs at 64 bytes, 1.5 against 3.1 µs at 1420).
_NUMPY_FROM: Final = 512


def host_order(value: int) -> int:
    """The 16-bit `value`, as the host reads the two bytes that the network writes for it."""
    return (value & 0xFF) << 8 | value >> 8 if _LITTLE else value


def fold(total: int) -> int:
    """The one's complement sum, 16 bits, that a plain sum of 16-bit words stands for."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ones_complement_sum(data: bytes | bytearray | memoryview) -> int:
    """The one's complement sum of the big-endian words of `data`; a last odd byte counts as a high one."""
    size = len(data)
    if size < _NUMPY_FROM:
        # 2**16 is 1 modulo 65535, so the sum of the words is the number they spell. Zero has two spellings:
        # 0 when every word is, else 0xFFFF.
        number = int.from_bytes(data, "big") << (8 * (size & 1))
        return number % 0xFFFF or (0xFFFF if number else 0)
    even = size & ~1
    total = int(np.add.reduce(np.frombuffer(data, np.uint16, even // 2), dtype=np.uint64))
    if size & 1:
        total += host_order(data[-1] << 8)
    return host_order(fold(total))


def checksum(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """The checksum of `data` with `start`, a sum of what else it covers (a pseudo-header), included."""
    return ~fold(ones_complement_sum(data) + start) & 0xFFFF


def row_sums(rows: Words) -> Sums:
    """The sum of each row of at most 65,536 host-order words, not folded; 0 modulo 65535 where it checks."""
    total: Sums = np.add.reduce(rows, axis=1, dtype=np.uint32)
    return total


def checksums(sums: Sums) -> Sums:
    """Turns each sum (not zero) of host-order words into the checksum it stands for, in place."""
    # Folding is taking modulo 65535, with results 1 to 65535; one division is cheaper than six small steps.
    sums -= _ONE
    sums %= _MODULUS
    return np.subtract(_MODULUS - _ONE, sums, out=sums)
