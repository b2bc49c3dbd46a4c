"""`ravenctl events`: what happened lately to the daemon, a sentence each."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from rich.text import Text

from raven.cli import render
from raven.cli.client import answered, query
from raven.cli.sentences import sentence_for
from raven.net.status_socket import EventsRequest
from raven.status import Happening

_COLOURS: Final = {"warning": "yellow", "error": "red"}


def events(socket: Path | None, *, most: int, json: bool) -> int:
    """Prints the newest `most` happenings, oldest first; the exit code."""
    happened = answered(query(socket, EventsRequest()), "events")[-most:]
    if json:
        render.print_json(happened)
    elif not happened:
        render.say("nothing happened since this daemon started")
    for happening in happened if not json else ():
        line = Text(_moment(happening.time), style="dim")
        line.append(f"  {sentence(happening)}", style=_COLOURS.get(happening.level, ""))
        render.say(line)
    return 0


def sentence(of: Happening) -> str:
    """The happening in words; the line as it is, details as key=value, where no sentence fits it."""
    if (said := sentence_for(of.what, of.details)) is not None:
        return said
    details = " ".join(f"{key}={value}" for key, value in of.details.items())
    return f"{of.what}  {details}".rstrip()


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
