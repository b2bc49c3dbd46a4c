"""Rows of a benchmark, medians of interleaved rounds, and the same table for eyes, Markdown and JSON.

Each module of `bench` offers `measure(rounds: int) -> Iterator[Row]`; `bench.__main__` runs them and prints.
Interleaved means ours, theirs, ours, theirs: a neighbour that wakes up on the machine then hurts both.
"""

import dataclasses
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rich.table import Table


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of ours, beside what a user would pick instead where there is such a thing."""

    what: str
    unit: str  # "Gb/s", "ms", "MB", "% CPU"
    ours: float
    peer: str = ""  # who `theirs` belongs to, e.g. "ssh -R"
    theirs: float | None = None
    higher_is_better: bool = True
    goal: float | None = None  # in `unit`; what the project set itself

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer, above 1 whichever way is better; None without a peer."""
        if self.theirs is None or not self.ours or not self.theirs:
            return None
        return self.ours / self.theirs if self.higher_is_better else self.theirs / self.ours

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None where none was set."""
        if self.goal is None:
            return None
        return self.ours >= self.goal if self.higher_is_better else self.ours <= self.goal


def interleaved(rounds: int, contestants: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each contestant's figures, one of each a round, the order reversed every other round."""
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        for name in names if number % 2 == 0 else reversed(names):
            figures[name].append(contestants[name]())
    return {name: statistics.median(values) for name, values in figures.items()}


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


HEADINGS = ("what", "Raven", "instead", "", "ratio", "goal")


def amount(value: float, unit: str) -> str:
    """`value` with three digits that count."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _cells(row: Row) -> Iterator[str]:
    yield row.what
    yield amount(row.ours, row.unit)
    yield "" if row.theirs is None else amount(row.theirs, row.unit)
    yield row.peer
    yield "" if row.ratio is None else f"{row.ratio:.2f}x"
    sign = ">=" if row.higher_is_better else "<="
    yield "" if row.goal is None else f"{sign} {row.goal:g} {row.unit} {'met' if row.holds else 'MISSED'}"


def rendered(rows: Iterable[Row], title: str = "") -> Table:
    """The rows as a table for a terminal."""
    table = Table(title=title or None, title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("what", "") else "right")
    for row in rows:
        style = {True: "green", False: "red", None: ""}[row.holds]
        *cells, goal = _cells(row)
        table.add_row(*cells, f"[{style}]{goal}[/]" if style else goal)
    return table


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|--:|--:|---|--:|--:|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def as_json(rows: Iterable[Row]) -> list[dict[str, object]]:
    """The rows as JSON objects: the fields of Row and the ratio."""
    return [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows]


def machine() -> str:
    """One line about what runs this and what else it does, with nothing in it about where it stands."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = os.getloadavg()[0]
    busy = f", busy with other work (load {load:.1f}): believe ratios, not figures" if load > 0.5 else ""
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    return (
        f"{os.cpu_count()} cores, {model}, Linux {kernel}, "
        f"{platform.python_implementation()} {platform.python_version()}{busy}"
    )
