"""The replay window of one receiving key: which counters were seen (RFC 6479 says why, not how).

Counters below `_floor` are stale or seen; bit i of `_seen` stands for counter `_floor + i`. While messages
come in order `_seen` is zero and everything is arithmetic on small integers; a gap makes it grow to at most
REPLAY_WINDOW bits until the gap fills or leaves the window. A run of consecutive counters costs as much as
one.
"""

from raven.wg.constants import REPLAY_WINDOW


class ReplayWindow:
    """Ask before decrypting, mark after: an unauthenticated counter must not move the window."""

    __slots__ = ("_floor", "_seen")

    def __init__(self) -> None:
        self._floor = 0
        self._seen = 0

    def is_ahead(self, counter: int) -> bool:
        """Whether `counter`, hence every later one, is newer than all that were seen."""
        return counter >= self._floor + self._seen.bit_length()

    def is_new(self, counter: int) -> bool:
        """Whether a message with this counter may still be accepted."""
        offset = counter - self._floor
        return offset >= 0 and not self._seen >> offset & 1

    def mark(self, counter: int, count: int = 1) -> None:
        """Records `count` consecutive authenticated counters, each new, from `counter` on."""
        offset = counter - self._floor
        if offset == 0 and not self._seen:
            self._floor += count
            return
        top = max(offset + count, self._seen.bit_length())
        if top > REPLAY_WINDOW:
            # Let go of the oldest before the bits are set, so that a jump of 2^60 makes no integer of 2^60
            # bits.
            slide = top - REPLAY_WINDOW
            self._floor += slide
            self._seen >>= slide
            offset -= slide
            if offset < 0:  # a run longer than the window
                count += offset
                offset = 0
        self._seen |= ((1 << count) - 1) << offset
        if self._seen & 1:
            leading = (~self._seen & (self._seen + 1)).bit_length() - 1  # ones at the bottom
            self._seen >>= leading
            self._floor += leading
