"""Who is turned away at a listener: counted each time, logged as far as a flood leaves room."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

BUSY: Final = frozenset({"too-many-from-network", "refused-early"})
# Lines about one reason in so many seconds, or the log would be a flood's: strangers may come as often as
# they like, and nodes that are turned away, after a restart of their gateway say, are few.
LINES_MAX: Final = 10
WINDOW: Final = 10.0  # seconds


class Refusals:
    """Counts into `refused`, by reason."""

    def __init__(self, refused: Counter[str], log: FilteringBoundLogger) -> None:
        self._refused, self._log = refused, log
        self._since: dict[str, float] = {}  # trio.current_time() when the window began, by reason
        self._lines: Counter[str] = Counter()  # in it

    def turned_away(self, reason: str, address: str, why: str) -> None:
        """Called when a connection was refused."""
        self._refused[reason] += 1
        now = trio.current_time()
        if now >= self._since.get(reason, -math.inf) + WINDOW:
            self._since[reason], self._lines[reason] = now, 0
        self._lines[reason] += 1
        if self._lines[reason] <= LINES_MAX:
            self._log.info("turned away", reason=reason, address=address, why=why)
