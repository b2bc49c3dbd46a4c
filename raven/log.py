"""Where the daemons' log lines go and how they look: text on a terminal, one JSON object a line elsewhere.

Every line passes the redaction below on its way out, so that a mistake at a call site does not become a
secret on disk. The newest ones stay in memory, for `ravenctl events`. The sans-IO layers never import this;
they report events and their driver logs them.
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

from raven.status import Happening
from raven.terminal import printable, printable_lines

if "rich" not in sys.modules:
    # structlog imports rich where it finds it, for tracebacks nobody asked for: 3.6 MB of a small device's
    # memory. A None in sys.modules is Python's own way to say "not here"; it is taken back right after.
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog

    del sys.modules["rich"]
else:
    import structlog

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "text", "json"]

_SECRET_KEY = re.compile(r"token|secret|password|private|preshared|authorization", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"raven(?:op)?1\.[\w.-]+"  # join tokens, access tokens
    # User and password of a proxy; without a scheme a port has to follow, or it is an asker's name with an @.
    r"|(?<=://)[^@\s]+:\S+(?=@)|\b[\w.%-]+:[^@\s/]+(?=@[\w.-]+:\d)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
_TURNED_AWAY = "turned away"  # by `gateway.refusals`
_NUMBERS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hides values under keys that name a secret, and tokens, passwords and private keys in any text."""
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = "hidden"
        elif isinstance(value, str):
            event[key] = _SECRET_TEXT.sub("hidden", value)
        elif isinstance(value, BaseException):
            event[key] = _SECRET_TEXT.sub("hidden", f"{type(value).__name__}: {value}")
    return event


class Recent:
    """Keeps the newest lines as values; a processor that changes nothing.

    Lines of single requests are left out: a busy minute of them would push out what happened. Of strangers
    that were turned away the newest few are kept, however many came; an error that goes on is kept now and
    then.
    """

    LINES_MAX: Final = 512  # some hundred kilobytes at most; a day of a node with a bad uplink
    VALUE_MAX: Final = 300  # characters of one value; a sentence
    STRANGERS_MAX: Final = 64  # lines about them
    ERROR_EVERY: Final = (
        600.0  # seconds between two that say the same: who has no registry says so each second
    )
    LEFT_OUT: Final[Mapping[str, str]] = {  # events, and why
        "request": "one for each request; the audit has it",
        "stream": "one for each request",
        "stream refused": "one for each request",
        "stream cut": "one for each stream that a new allow list ends; `allow list taken` has their number",
        "audit head": "nothing has happened: it is for those who collect the log",
    }

    def __init__(self) -> None:
        self._lines: deque[Happening] = deque(maxlen=self.LINES_MAX)
        self._strangers: deque[Happening] = deque(maxlen=self.STRANGERS_MAX)

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        if event.get("event") not in self.LEFT_OUT:
            details = {
                key: str(value)[: self.VALUE_MAX]
                for key, value in event.items()
                if key not in ("event", "area", "level", "exception") and value is not None
            }
            line = Happening(
                time=time.time(),
                level=str(event.get("level", "info")),
                area=str(event.get("area", "")),
                what=str(event.get("event", ""))[: self.VALUE_MAX],
                details=details,
            )
            if line.what == _TURNED_AWAY:
                self._strangers.append(line)
            elif line.level != "error" or not self._is_kept(line):
                self._lines.append(line)
        return event

    def _is_kept(self, line: Happening) -> bool:
        """Whether one that says the same is, of not long ago, and nothing else has happened there since."""
        for kept in reversed(self._lines):
            if kept.area != line.area:
                continue
            if kept.what != line.what or kept.time <= line.time - self.ERROR_EVERY:
                return False
            if kept.details == line.details:
                return True
        return False

    def lines(self) -> list[Happening]:
        """Oldest first."""
        return sorted((*self._lines, *self._strangers), key=lambda line: line.time)

    def clear(self) -> None:
        self._lines.clear()
        self._strangers.clear()


recent = Recent()  # of this process, as the log itself is


def configure(*, level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:
    """Sends the log of this process to `stream` (default: standard error); called once, by `main`."""
    out = stream if stream is not None else sys.stderr
    text = format == "text" or (format == "auto" and out.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        redact,
        recent,
    ]
    if text:
        processors += [
            _clean,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=0),
        ]
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )


def _clean(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For a terminal: what was said by other hosts is text there. JSON escapes by itself."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable_lines(value) if key == "exception" else printable(value)
    return event


def get(area: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines say which part of the daemon speaks."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(area=area)
    return logger
