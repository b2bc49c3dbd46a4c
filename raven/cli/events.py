"""`ravenctl events`: what happened lately to the daemon, a sentence each."""

from __future__ import annotations

import string
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from rich.text import Text

from raven.cli import render
from raven.cli.client import answered, query
from raven.net.status_socket import EventsRequest
from raven.status import Happening

# What a line of the log reads like. A line that is not here, or lacks a detail, shows as it is.
SENTENCES: Final = {
    "node joined": "node {node} joined, from {address}",
    "gateway joined": "gateway {gateway} joined, from {address}",
    "gateway follows": "gateway {gateway} follows this one; agents dial it at {address}",
    "node resumed": "node {node} came back to its tunnel from {address}, after {gap_s} s",
    "cut off": "node {node} was cut off: {reason}",
    "the CA has changed": "this gateway has another CA now",
    "the CA was not changed": "the CA was not changed: {why}",
    "node connected": "node {node} connected from {address}, raven {software}",
    "node disconnected": "node {node} is gone: {why}",
    "turned away": "a connection from {address} was turned away: {why}",
    "certificate renewed": "the certificate of node {node} was renewed",
    "not renewed": "the certificate of node {node} was not renewed: {why}",
    "connected": "connected to gateway {name} at {gateway}",
    "no tunnel": "no tunnel: {problem}",
    "packets stopped": "packets to node {node} stopped: {why}",
    "packets pass": "packets to node {node} pass",
    "packets do not pass": "packets do not pass: {why}",
    "draining": "began to drain, for at most {seconds} s",
}
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
    """The happening in words; details that no sentence has a place for follow as key=value."""
    template = SENTENCES.get(of.what, "")
    fields = fields_of(template)
    if template and all(field in of.details for field in fields):
        return template.format_map(of.details)
    details = " ".join(f"{key}={value}" for key, value in of.details.items())
    return f"{of.what}  {details}".rstrip()


def fields_of(template: str) -> Sequence[str]:
    return [field for _, field, _, _ in string.Formatter().parse(template) if field]


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
