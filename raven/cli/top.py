"""`ravenctl top`: the streams that are open, the busiest first, again and again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from raven.cli import render
from raven.cli.client import answered, query
from raven.net.status_socket import StreamsRequest
from raven.spans import age
from raven.status import Streams, StreamStatus

CLEAR = "\x1b[H\x1b[2J"  # ECMA-48: cursor home, erase the screen


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A stream and how fast it is; `-o json` prints a list of these."""

    stream: StreamStatus
    to_target_bps: float  # bytes a second since the sample before
    from_target_bps: float


def top(socket: Path | None, *, interval: float, count: int, most: int, json: bool) -> int:
    """Prints `count` times, 0 for ever; the exit code. Rates need two samples, so the first print waits."""
    before = _ask(socket)
    printed = 0
    try:
        while not count or printed < count:
            time.sleep(interval)
            after = _ask(socket)
            rows = compare(before, after)
            if json:
                render.print_json(rows[:most] if most else rows)
            else:
                _print(rows, most, again=printed > 0)
            before, printed = after, printed + 1
    except KeyboardInterrupt:
        pass
    return 0


def _ask(socket: Path | None) -> Streams:
    return answered(query(socket, StreamsRequest()), "streams")


def compare(before: Streams, after: Streams) -> list[Row]:
    """The streams of `after` with their rates, the busiest first; a new one's rate is since it began."""
    known: Mapping[str, StreamStatus] = {stream.id: stream for stream in before.streams}
    rows = []
    for stream in after.streams:
        old = known.get(stream.id)
        passed = max(1e-3, after.at - before.at if old is not None else stream.age_s)
        sent, received = (old.bytes_to_target, old.bytes_from_target) if old is not None else (0, 0)
        rows.append(
            Row(
                stream=stream,
                to_target_bps=(stream.bytes_to_target - sent) / passed,
                from_target_bps=(stream.bytes_from_target - received) / passed,
            )
        )
    return sorted(rows, key=lambda row: (-row.to_target_bps - row.from_target_bps, row.stream.id))


def _print(rows: list[Row], most: int, *, again: bool) -> None:
    if again and render.is_terminal():
        render.raw(CLEAR)
    shown = rows[:most] if most else rows
    if not shown:
        render.say("no streams are open")
        return
    render.print_table(
        ["NODE", "TARGET", "ASKER", "AGE", "TO TARGET", "FROM TARGET", "WINDOW", "QUEUE", "PRIORITY"],
        (
            [
                row.stream.node,
                row.stream.target,
                row.stream.asker,
                age(row.stream.age_s),
                f"{render.size(round(row.to_target_bps))}/s",
                f"{render.size(round(row.from_target_bps))}/s",
                render.size(row.stream.window),
                render.size(row.stream.queue),
                row.stream.priority,
            ]
            for row in shown
        ),
        whole=(3, 4, 5, 6, 7, 8),
    )
    if len(shown) < len(rows):
        render.say(f"and {len(rows) - len(shown)} more; --most 0 shows them all")
