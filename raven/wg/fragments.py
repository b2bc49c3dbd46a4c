"""Cuts a sealed superframe into its fragments: rows of a matrix, so that each header field is one operation.

Below `superframe`, which imports this with the first frame it seals: numpy costs a device 12 MB.
"""

from typing import Final

import numpy as np

from raven.wg.scratch import Scratch

_MOST: Final = 256  # a fragment's number is a byte
_NUMBERS = np.arange(_MOST, dtype=np.uint8)
_NUMBER_AT: Final = 1  # where a fragment's header has its number


def cut(sealed: memoryview, header: bytes, stride: int, most: int, scratch: Scratch) -> list[memoryview]:
    """The fragments of `sealed`, `stride` bytes each but the last, in runs of at most `most` fragments.

    `header` stands before each of them, with the fragment's own number in it.
    """
    part = stride - len(header)
    count = -(-len(sealed) // part)
    parts = np.frombuffer(sealed, np.uint8)
    runs = []
    for first in range(0, count, most):
        size = min(most, count - first)
        whole, _ = scratch.run(size, stride, 0)
        rows = np.frombuffer(whole, np.uint8, size * stride).reshape(size, stride)
        rows[:, : len(header)] = np.frombuffer(header, np.uint8)
        rows[:, _NUMBER_AT] = _NUMBERS[first : first + size]
        body = parts[first * part : (first + size) * part]
        full, rest = divmod(len(body), part)
        rows[:full, len(header) :] = body[: full * part].reshape(full, part)
        if rest:
            end = len(header) + rest
            rows[full, len(header) : end] = body[full * part :]
            runs.append(whole[: full * stride + end])
        else:
            runs.append(whole[: size * stride])
    return runs
