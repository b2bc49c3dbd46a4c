"""How ravenctl looks: tables of at most the terminal's width, and whole plain lines where there is none.

Colour says nothing that a word does not say as well. What other hosts have said reaches a terminal
as text alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raven.spans import age
from raven.status import Lane, LaneState
from raven.terminal import json_text, printable

_COLOURS: dict[LaneState, str] = {
    "up": "green",
    "starting": "yellow",
    "reconnecting": "yellow",
    "stale": "yellow",
    "down": "red",
    "off": "dim",
}
_PIPE_WIDTH = 10_000  # columns; nothing wraps or is cut where a program reads


def harmless(text: str | Text) -> Text:
    """`printable`, of a text that may have styles, which stay where they are."""
    made = Text(text) if isinstance(text, str) else text
    made.plain = printable(made.plain)
    return made


def is_terminal() -> bool:
    return sys.stdout.isatty()


def console() -> Console:
    """Standard output: the terminal's width and colours, or neither."""
    return Console(highlight=False, soft_wrap=False) if is_terminal() else Console(width=_PIPE_WIDTH)


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str | Text]], *, whole: Sequence[int] = ()
) -> None:
    """A table within the terminal's width; cells wrap, but for the columns in `whole`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(headings))
    for position, heading in enumerate(headings):
        table.add_column(heading, no_wrap=position in whole, overflow="fold", header_style="bold")
    for row in rows:
        table.add_row(*map(harmless, row))
    if is_terminal():
        console().print(table)
        return
    buffer = StringIO()
    Console(file=buffer, width=_PIPE_WIDTH, color_system=None).print(table)
    for line in buffer.getvalue().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def say(text: str | Text = "", *, style: str = "") -> None:
    """A line of its own; no markup in it means anything."""
    console().print(harmless(text), markup=False, style=style)


def raw(text: str) -> None:
    """Writes control characters to a terminal."""
    sys.stdout.write(text)


def print_json(value: object) -> None:
    sys.stdout.write(json_text(value) + "\n")


def lane(of: Lane) -> Text:
    """State, round trip and age of the evidence: `up 0.4 ms (3 s)`."""
    text = Text()
    text.append(of.state, style=_COLOURS[of.state])
    if of.state == "up" and of.rtt_ms is not None:
        text.append(f" {milliseconds(of.rtt_ms)}")
    if of.evidence_age_s is not None:
        text.append(f" ({age(of.evidence_age_s)})", style="dim")
    return text


def is_down(of: Lane) -> bool:
    """Whether an operator should do something; what is off is off on purpose, what starts gets its time."""
    return of.state in ("down", "reconnecting", "stale")


def milliseconds(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def size(count: int) -> str:
    """Bytes in decimal units: `512 B`, `1.2 MB`."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
