"""`ravenctl trace NODE[:PORT]`: the hops of one request, with their round trips and identities."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from raven.cli import render
from raven.cli.client import EXIT_DOWN, answered, query
from raven.net.status_socket import TraceRequest
from raven.status import Hop


def trace(socket: Path | None, node: str, *, port: int, host: str, json: bool) -> int:
    """Prints the hops; the exit code is 1 when the request would not have come through."""
    result = answered(query(socket, TraceRequest(node=node, port=port, host=host)), "trace")
    if json:
        render.print_json(result)
    else:
        render.print_table(
            ["", "HOP", "ROUND TRIP", "WHO", ""], map(_row, enumerate(result.hops, 1)), whole=(1, 2)
        )
    return EXIT_DOWN if any(hop.problem for hop in result.hops) else 0


def _row(numbered: tuple[int, Hop]) -> list[str | Text]:
    number, hop = numbered
    took = Text("") if hop.rtt_ms is None else Text(render.milliseconds(hop.rtt_ms))
    if hop.problem:
        took = Text("broken", style="red")
    return [str(number), hop.name, took, hop.who, hop.problem or hop.detail]
