"""What strangers are refused again and again: one line, then how often, so that they wash nothing out.

Everybody who reaches an entry can be refused as often as they like, and the chain keeps its newest lines
only. Nothing of this holds for who has a name, and nothing that was allowed is ever counted instead of told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from raven.net.source_network import network_of_host
from raven.net.tcp import host_of
from raven.oam.asker import ANONYMOUS
from raven.oam.audit import AuditLine

WINDOW: Final = 10.0  # seconds for which a refusal stands for those like it
KINDS_MAX: Final = 64  # told apart; one network asking for one node has some ten


@dataclass(slots=True)
class _Kind:
    line: AuditLine  # the newest
    ends: float
    more: int = 0  # since the one that was told


class Repeats:
    """The refusals of askers without a name, by network, reason and what they are about."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def is_told(self, line: AuditLine, now: float) -> bool:
        """Whether a line of the same kind stands for this one."""
        if not line.refused or not line.asker.startswith(f"{ANONYMOUS} at "):
            return False
        network = network_of_host(host_of(line.asker.removeprefix(f"{ANONYMOUS} at ")))
        about = line.node if line.verdict != "unknown-node" else ""  # made up: another one for each request
        if line.verdict == "bad-credentials":
            about = line.detail  # one that was revoked is another than one that nobody knows
        key = (str(network), line.verdict, about)
        if key not in self._kinds and len(self._kinds) >= KINDS_MAX:
            key = ("elsewhere", "", "")
        if (kind := self._kinds.get(key)) is None:
            self._kinds[key] = _Kind(line, now + WINDOW)
            return False
        kind.line = line
        kind.more += 1
        return True

    def over(self, now: float) -> list[AuditLine]:
        """The lines that are due: how many there were beside the one that was told."""
        due = [key for key, kind in self._kinds.items() if now >= kind.ends]
        kinds = [self._kinds.pop(key) for key in due]
        return [
            replace(kind.line, detail=f"and {kind.more} more like it in {WINDOW:.0f} s: {kind.line.detail}")
            for kind in kinds
            if kind.more
        ]
