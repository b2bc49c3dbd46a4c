"""Tables with several contestants: a row is one measurement, a column whoever took it in the same run.

A goal names a peer and a ratio, so it is judged only where that peer was measured; a share of a limit needs
nobody. The first column is Raven's, where a single one is.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.table import Table

OURS = "Raven"
NOT_MEASURED = "–"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a figure of ours should be: `ratio` times the peer's, or `ratio` itself where `peer` is ""."""

    ratio: float
    peer: str = ""
    ours: str = OURS  # whose figure is judged

    def __str__(self) -> str:
        return f"{self.ratio:g} × {self.peer}" if self.peer else f"{self.ratio:g}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One measurement of every contestant; figures are medians over the rounds, in `unit`."""

    what: str
    unit: str
    figures: Mapping[str, float]  # by contestant
    higher_is_better: bool = True
    goals: Sequence[Goal] = ()

    def share(self, goal: Goal) -> float | None:
        """Our figure as a multiple of what the goal refers to; None where that was not measured."""
        ours = self.figures.get(goal.ours)
        against = self.figures.get(goal.peer) if goal.peer else 1.0
        return ours / against if ours is not None and against else None

    def holds(self, goal: Goal) -> bool | None:
        """Whether the goal is met; None where it cannot be judged."""
        share = self.share(goal)
        if share is None:
            return None
        return share >= goal.ratio if self.higher_is_better else share <= goal.ratio

    def verdicts(self) -> Iterator[str]:
        """A few words for each goal: how far, of what, met or not; or that the peer was not there."""
        sign = "≥" if self.higher_is_better else "≤"
        for goal in self.goals:
            if (share := self.share(goal)) is None:
                yield f"{sign} {goal}: not measured"
            else:
                word = "met" if self.holds(goal) else "MISSED"
                whose = "" if goal.ours == OURS else f"{goal.ours} "
                yield (
                    f"{whose}{sign} {goal}: {share:.2f} {word}"
                    if goal.peer
                    else f"{whose}{sign} {goal}: {word}"
                )


def _cells(line: Line, contestants: Sequence[str]) -> Iterator[str]:
    yield f"{line.what}, {line.unit}"
    for name in contestants:
        value = line.figures.get(name)
        digits = 0 if value is None or value >= 100 else 1 if value >= 10 else 2
        yield NOT_MEASURED if value is None else f"{value:.{digits}f}"
    yield "; ".join(line.verdicts())


def contestants(lines: Iterable[Line]) -> list[str]:
    """Whoever has a figure, in the order they appear; Raven first."""
    seen = {name: None for line in lines for name in line.figures}
    return sorted(seen, key=lambda name: name != OURS)


def rendered(lines: Sequence[Line], title: str = "") -> Table:
    """The lines as a table for a terminal."""
    names = contestants(lines)
    table = Table(title=title or None, title_justify="left")
    for heading in ("what", *names, "wanted"):
        table.add_column(heading, justify="left" if heading in ("what", "wanted") else "right")
    for line in lines:
        missed = any(line.holds(goal) is False for goal in line.goals)
        table.add_row(*_cells(line, names), style="red" if missed else "")
    return table


def markdown(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table."""
    names = contestants(lines)
    head = ["| " + " | ".join(("what", *names, "wanted")) + " |", "|---|" + "--:|" * len(names) + "---|"]
    return "\n".join([*head, *("| " + " | ".join(_cells(line, names)) + " |" for line in lines)]) + "\n"


def as_json(lines: Iterable[Line]) -> list[dict[str, object]]:
    """The lines as JSON objects, with a verdict for each goal."""
    return [dataclasses.asdict(line) | {"verdicts": list(line.verdicts())} for line in lines]
