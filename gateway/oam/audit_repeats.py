"""What strangers are refused again and again: a line, then how often, so that they wash nothing out.

Everybody who reaches an entry can be refused as often as they like, and the chain keeps its newest lines
only. Nothing of this holds for who has a name, and nothing that was allowed is ever counted instead of told.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from raven.net.source_network import network_of_host
from raven.net.tcp import host_of
from raven.oam.asker import ANONYMOUS
from raven.oam.audit import AuditLine

WINDOW: Final = 10.0  # seconds from the line of a kind until the first one that counts those like it
GROWTH: Final = 4  # each window by the one before it: 10 s, 40 s, 160 s, 640 s, 2,560 s
MEMORY: Final = 3600.0  # seconds for which a kind is known, so that coming slowly is no way to more lines
EACH_MAX: Final = 16  # kinds of one network; what else it is refused is one kind more
KINDS_MAX: Final = 64  # of all networks together; what is beyond is one kind more
KIND_LINES: Final = 7  # of one kind, while it is known: its line, five windows, and the rest of MEMORY
# Whatever strangers do, there are this many lines a day, of the 100,000 that are kept. One network that is
# alone has (EACH_MAX + 1) * KIND_LINES * 24 = 2,856.
DAY_MAX: Final = (KINDS_MAX + 1) * KIND_LINES * 24  # 10,920: nine days until they have pushed everything out

_Key = tuple[str, str, str]  # network, reason, what it is about
_ELSEWHERE: Final = ("", "", "")


@dataclass(slots=True)
class _Kind:
    line: AuditLine  # the newest
    newest: float  # when that was
    since: float  # when a line was written
    due: float  # when another one is
    window: float
    forgotten: float
    more: int = 0  # since the one that was written


class Repeats:
    """The refusals of askers without a name, by network, reason and what they are about."""

    def __init__(self) -> None:
        self._kinds: dict[_Key, _Kind] = {}
        self._each: Counter[str] = Counter()  # kinds by network

    def is_told(self, line: AuditLine, now: float) -> bool:
        """Whether a line of the same kind stands for this one."""
        if not line.refused or not line.asker.startswith(f"{ANONYMOUS} at "):
            return False
        key = self._room(_key(line))
        if (kind := self._kinds.get(key)) is None:
            self._kinds[key] = _Kind(line, now, now, now + WINDOW, WINDOW, now + MEMORY)
            self._each[key[0]] += 1
            return False
        kind.line, kind.newest = line, now
        kind.more += 1
        return True

    def over(self, now: float) -> list[AuditLine]:
        """The lines that are due: how many there were beside those that were told."""
        lines = []
        for key, kind in [(key, kind) for key, kind in self._kinds.items() if now >= kind.due]:
            if kind.more:
                seconds = max(1, math.ceil(kind.newest - kind.since))
                like = "like it" if key[1] else "of many kinds"
                detail = f"and {kind.more} more {like} in {seconds} s: {kind.line.detail}"
                lines.append(replace(kind.line, detail=detail))
            if now >= kind.forgotten:
                self._forget(key)
            else:
                kind.more, kind.since = 0, kind.due
                kind.window *= GROWTH
                kind.due = min(kind.due + kind.window, kind.forgotten)
        return lines

    def _room(self, key: _Key) -> _Key:
        """`key`, or the kind that stands for it when there are too many."""
        if key not in self._kinds and self._each[key[0]] >= EACH_MAX:
            key = (key[0], "", "")  # one beyond EACH_MAX
        return key if key in self._kinds or len(self._kinds) < KINDS_MAX else _ELSEWHERE

    def _forget(self, key: _Key) -> None:
        del self._kinds[key]
        self._each[key[0]] -= 1
        if not self._each[key[0]]:
            del self._each[key[0]]


def _key(line: AuditLine) -> _Key:
    network = network_of_host(host_of(line.asker.removeprefix(f"{ANONYMOUS} at ")))
    # A name that is no node's can be made up: another one for each request, and the policy refuses it before
    # anybody finds out that there is none.
    about = line.node if line.known else ""
    if line.verdict == "bad-credentials":
        about = line.detail  # one that was revoked is another than one that nobody knows
    return str(network), line.verdict, about
