"""What a daemon holds when nobody asks anything of it, and whether that grows from one look to the next.

Pure. Load makes memory rise at first: pools fill, modules load, counters get their keys. So the first looks
are warm-up, and what is judged is the later half against the middle.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

WARM_UP = 0.34  # share of the looks that do not count
SLACK_BYTES = 3 << 20  # of noise: one arena of the allocator more or less
SLACK_SHARE = 0.04  # of the memory


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One daemon at rest."""

    resident: int  # bytes
    descriptors: int
    tasks: int  # of its event loop; 0 for a program that has none
    streams: int


def grown(name: str, looks: Sequence[Look]) -> Iterator[str]:
    """A sentence for each thing that has grown; ValueError when there are too few looks to say."""
    counted = looks[round(WARM_UP * len(looks)) :]
    if len(counted) < 4:
        raise ValueError(f"{name}: {len(looks)} looks are too few, expected at least 6")
    half = len(counted) // 2
    before, after = counted[:half], counted[-half:]
    for what in ("descriptors", "tasks", "streams"):
        first = max(getattr(look, what) for look in before)
        last = min(getattr(look, what) for look in after)
        if last > first:
            yield f"{name}: {what} grew from {first} to {last}"
    first = statistics.median(look.resident for look in before)
    last = statistics.median(look.resident for look in after)
    if last - first > max(SLACK_BYTES, SLACK_SHARE * first):
        yield f"{name}: memory grew from {first / 1e6:.1f} to {last / 1e6:.1f} MB"
    if counted[-1].streams:
        yield f"{name}: {counted[-1].streams} streams are open though nobody asks"
