"""Who is turned away at the agents' listener: counted each time, logged as far as a flood leaves room."""

from __future__ import annotations

import math
from collections import Counter

import trio
from structlog.typing import FilteringBoundLogger

# What a flood is turned away for: counted each time, told once in a while, or the log would be the flood's.
FLOODS = frozenset(
    {
        "too-many-from-network",
        "refused-early",
        "displaced",
        "silent",
        "tls-timeout",
        "tls-eof",
        "proxy-header",
    }
)
BUSY = frozenset({"too-many-from-network", "refused-early"})
FLOOD_LINE = 1.0  # seconds between two lines about one of them


class Refusals:
    """Counts into `refused`, by reason."""

    def __init__(self, refused: Counter[str], log: FilteringBoundLogger) -> None:
        self._refused, self._log = refused, log
        self._told: dict[str, float] = {}  # trio.current_time() of the last line, by reason of FLOODS

    def turned_away(self, reason: str, address: str, why: str) -> None:
        """Called when a connection was refused."""
        self._refused[reason] += 1
        if reason in FLOODS:
            now = trio.current_time()
            if now < self._told.get(reason, -math.inf) + FLOOD_LINE:
                return
            self._told[reason] = now
        self._log.info("turned away", reason=reason, address=address, why=why)
