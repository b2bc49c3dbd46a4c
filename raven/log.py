"""Where the daemons' log lines go and how they look: text on a terminal, one JSON object a line elsewhere.

Every line passes the redaction below on its way out, so that a mistake at a call site does not become a
secret on disk. The sans-IO layers never import this; they report events and their driver logs them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

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
_SECRET_TEXT = re.compile(r"raven1\.[\w.-]+|-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL)
_NUMBERS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hides values under keys that name a secret, and join tokens and private keys inside any text."""
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = "hidden"
        elif isinstance(value, str):
            event[key] = _SECRET_TEXT.sub("hidden", value)
        elif isinstance(value, BaseException):
            event[key] = _SECRET_TEXT.sub("hidden", f"{type(value).__name__}: {value}")
    return event


def configure(*, level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:
    """Sends the log of this process to `stream` (default: standard error); called once, by `main`."""
    out = stream if stream is not None else sys.stderr
    text = format == "text" or (format == "auto" and out.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        redact,
    ]
    if text:
        processors += [
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


def get(area: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines say which part of the daemon speaks."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(area=area)
    return logger
