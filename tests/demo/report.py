"""The demo's table: a row for each step as it ends, on a terminal while it runs."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tests.demo.scene import Scene, Step
from tests.lab.errors import LabError

WIDTH = 120  # columns without a terminal: few broken rows, and still a page of README


class Report:
    """Runs steps and shows them; `failed` counts those that did not hold."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.failed = 0
        self._rows: list[tuple[Step, Text, float]] = []
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self.table(), refresh=True)
            self._live.stop()
        else:
            self.console.print(self.table())

    def run(self, step: Step, scene: Scene) -> bool:
        """Whether the step held."""
        if self._live:
            self._live.update(self.table(step))
        began = time.monotonic()
        try:
            said, held = Text(step.run(scene)), True
        except (LabError, OSError, ValueError, LookupError) as error:
            said, held = Text(f"FAILED: {_short(error)}", style="red"), False
        took = time.monotonic() - began
        self._rows.append((step, said, took))
        self.failed += not held
        if self._live is None:  # somebody watches a log
            print(f"{'held' if held else 'FAILED'} {took:5.1f} s  {step.title}", file=sys.stderr, flush=True)
        return held

    def table(self, running: Step | None = None) -> Table:
        """The rows so far, and one that turns for the step that is `running`."""
        table = Table(title="Raven: the main job, on real programs", title_justify="left", expand=False)
        table.add_column("", justify="right")
        table.add_column("step", min_width=24)
        table.add_column("what was run", style="cyan", max_width=40)
        table.add_column("what came back")
        table.add_column("s", justify="right")
        for number, (step, said, took) in enumerate(self._rows, 1):
            table.add_row(str(number), step.title, Text(step.shown), said, f"{took:.1f}")
        if running is not None:
            spinner = Spinner("dots", "running")
            table.add_row(str(len(self._rows) + 1), running.title, Text(running.shown), spinner, "")
        return table


def _short(error: Exception) -> str:
    """The first and the last line of what went wrong; logs follow below the table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
