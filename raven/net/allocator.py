"""What glibc's malloc may keep of freed memory; another C library stays as it is."""

import contextlib
import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3


def keep_freed(*, below: int, at_end: int) -> None:
    """Buffers of fewer than `below` bytes come from the heap, whose end keeps `at_end` free bytes."""
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, below)
        libc.mallopt(_M_TRIM_THRESHOLD, at_end)
