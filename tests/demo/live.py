"""After the steps: the nodes as `ravenctl nodes -o json` shows them, once a second, until Ctrl-C."""

import contextlib
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tests.demo.scene import Scene, copyable
from tests.lab.errors import LabError

_PAUSE = 1.0  # seconds between looks


def watch(console: Console, scene: Scene) -> None:
    """Shows until Ctrl-C; any other signal's exception goes on to the caller."""
    console.print("\nIt stays up until Ctrl-C. From another root shell:\n")
    for what, command in copyable(scene):
        console.print(f"  [dim]# {what}[/]")
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)
    console.print()
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            try:
                live.update(_table(scene.gateway.nodes()), refresh=True)
            except LabError as error:
                live.update(f"ravenctl: {error}", refresh=True)
            time.sleep(_PAUSE)


def _table(nodes: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="ravenctl nodes", title_justify="left")
    for heading in ("node", "last heard", "round trip", "stream lane", "packet lane", "pod networks"):
        table.add_column(heading)
    colours = {"up": "green", "starting": "yellow", "stale": "yellow", "down": "red"}

    def lane(state: str) -> str:
        return f"[{colours[state]}]{state}[/]" if state in colours else state

    for node in nodes.values():
        seen, trip = node["last_seen_s"], node["rtt_ms"]
        table.add_row(
            node["name"],
            "never" if seen is None else f"{seen:.0f} s ago",
            "" if trip is None else f"{trip:.1f} ms",
            lane(node["stream_lane"]),
            lane(node["packet_lane"]),
            " ".join(node["pod_cidrs"]),
        )
    return table
