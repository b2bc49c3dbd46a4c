"""What the commands on a state directory share: two options, one line for a failure, tables and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from raven.errors import RavenError
from raven.net.daemon import fail
from raven.places import STATE_DIRECTORY
from raven.terminal import json_text, printable, printable_lines

T = TypeVar("T")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

state_dir_option: Decorator = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),
    default=STATE_DIRECTORY,
    show_default=True,
    metavar="DIR",
    help="The gateway's state directory; the gateway may be running.",
)
output_option: Decorator = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people, or for programs.",
)


@contextmanager
def failing_in_one_line() -> Iterator[None]:
    try:
        yield
    except RavenError as error:
        fail("raven-gateway", error)


def done(output: str, value: object, sentence: str) -> None:
    if output == "json":
        print_json(value)
    else:
        click.echo(printable_lines(sentence))


def listed(
    output: str, entries: Sequence[T], headings: Sequence[str], row: Callable[[T], Sequence[str]]
) -> None:
    """All `entries`, as JSON or as a table with a `row` for each."""
    if output == "json":
        print_json(entries)
    else:
        print_table(headings, [row(entry) for entry in entries])


def print_json(value: object) -> None:
    click.echo(json_text(value))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def moment(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
