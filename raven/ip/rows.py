"""The internet checksum of many rows at once, and of long buffers: sums of the host's own 16-bit words.

One's complement sums do not care for byte order as long as all words are read and the result is written in
the same one. What needs numpy begins here, so that a device that never met a burst does without it.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from raven.ip.checksum import fold, host_order

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]
Sums = npt.NDArray[np.uint32]

_ONE: Final = np.uint32(1)
_MODULUS: Final = np.uint32(0xFFFF)


def long_sum(data: memoryview) -> int:
    """As `checksum.ones_complement_sum`, in half the time for a packet of 1420 bytes, not for a short one."""
    size = len(data)
    total = int(np.add.reduce(np.frombuffer(data, np.uint16, size // 2), dtype=np.uint64))
    if size & 1:
        total += host_order(data[-1] << 8)
    return host_order(fold(total))


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
