"""Packets that do not fit the path to their peer: cut, or sent back with the size that would fit.

Above is `peer`, which knows the path; the bytes are `raven.ip`'s.
"""

from collections.abc import Callable, Sequence
from typing import Final

from raven.ip.too_big import fragments, must_be_cut, too_big
from raven.wg.outbox import Drop, Outbox

# ICMP messages inwards, for each peer: a flow needs one, and whoever ignores it is not helped by more. Each
# may be as long as what caused it, so this also bounds what a host can make us write to it.
_REPORTS_PER_SECOND: Final = 50
_REPORTS_AT_ONCE: Final = 16


class Oversize:
    """One peer's packets that were too large, and how many reports of them it may still cause."""

    __slots__ = ("_outbox", "_random", "_reports_until")

    def __init__(self, outbox: Outbox, random: Callable[[int], bytes]) -> None:
        self._outbox = outbox
        self._random = random
        self._reports_until = 0.0  # by when the reports sent so far would be used up at the steady rate

    def fit(self, packets: Sequence[memoryview], limit: int, now: float) -> list[list[memoryview]]:
        """What to send in place of `packets`, in runs of equal sizes with a shorter last; the rest is told.

        Packets are IP with whole headers; `limit` is in bytes.
        """
        runs: list[list[memoryview]] = []
        for packet in packets:
            if len(packet) <= limit:
                runs.append([packet])
            elif must_be_cut(packet) and (
                pieces := fragments(packet, limit, int.from_bytes(self._random(4), "big"))
            ):
                runs.append(pieces)
            else:
                self._outbox.drop(Drop.TOO_LARGE)
                self._report(packet, limit, now)
        return runs

    def _report(self, packet: memoryview, limit: int, now: float) -> None:
        until = max(self._reports_until, now)
        if until - now >= _REPORTS_AT_ONCE / _REPORTS_PER_SECOND:
            return
        message = too_big(packet, limit)
        if message is not None:
            self._reports_until = until + 1 / _REPORTS_PER_SECOND
            self._outbox.packets.append(memoryview(message))
