"""What is remembered of a request to the proxy: one line when it ended, whatever came of it.

One that goes on for long has a line of verdict OPEN before.
"""

from dataclasses import dataclass
from typing import Final, Protocol

OPEN: Final = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """Who wanted what of which node, and what came of it. Paths and queries stay out: they carry secrets."""

    id: str  # of the request, the same in the agent's log
    time: float  # Unix seconds, when the request's head was complete
    asker: str  # who, and where from
    method: str  # "" where no head could be read
    node: str  # "" where none was named
    host: str  # as the node sees it; "" is the node itself
    port: int  # 0 where none was named
    verdict: str  # "allowed", OPEN while it goes on, or the constant word of the refusal
    status: int  # of the answer; 0 where the asker left before one
    bytes_to_target: int  # payload after the request's head
    bytes_from_target: int  # payload after the answer's head
    duration: float  # seconds
    detail: str = ""  # the sentence of a refusal
    known: bool = False  # the node has joined; what was never looked up may be made up

    @property
    def refused(self) -> bool:
        return self.verdict not in ("allowed", "withdrawn", OPEN)


class Audit(Protocol):
    """Where audit lines go. `record` returns at once and never raises: a full disk must not stop O&M."""

    def record(self, line: AuditLine) -> None: ...
