"""`make bench-streams`: the stream lane beside ssh -R, and konnectivity, chisel and frp where they are given.

python -m bench.streams [--rounds N] [--write]
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from bench import traffic
from bench.grid import OURS, Goal, Line, markdown, rendered
from bench.streams import figures
from bench.streams.ways import Way, build
from bench.table import machine, percentile
from tests.lab.errors import LabError
from tests.lab.world import World, missing

RESULTS = Path(__file__).parents[1] / "results" / "streams.md"

T = TypeVar("T")
Samples = dict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.streams", description="The stream lane and its peers."
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are shown")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/results/streams.md")
    options = parser.parse_args()
    if reason := missing():
        print(f"make bench-streams: {reason}", file=sys.stderr)
        return 2
    where = machine()
    try:
        with World(sites=("a",)) as world:
            lines = list(measure(world, build(world), options.rounds))
    except (LabError, OSError) as error:
        print(f"make bench-streams: {error}", file=sys.stderr)
        return 1
    console = Console()
    console = console if console.is_terminal else Console(width=180)
    title = f"Medians of {options.rounds} interleaved rounds"
    console.print(rendered(lines, title=title))
    print(where)
    if options.write:
        table = f"# The stream lane and its peers\n\n{where}. {title}.\n\n{markdown(lines)}"
        RESULTS.write_text(table + _notes(RESULTS.read_text()))
    return 0


def _notes(kept: str) -> str:
    """What people wrote below the table."""
    _, heading, notes = kept.partition("\n## ")
    return heading + notes


def measure(world: World, ways: Sequence[Way], rounds: int) -> Iterator[Line]:
    """The table of the stream lane, row by row."""
    fast = [Goal(ratio=1.5, peer="konnectivity"), Goal(ratio=1.0, peer="ssh -R")]
    both = (("down", traffic.download), ("up", traffic.upload))
    rates, costs = {}, {}
    for what, transfer in both:
        pairs = _rounds(ways, rounds, partial(figures.one_stream, world, transfer=transfer))
        rates[what] = {name: [rate for rate, _ in values] for name, values in pairs.items()}
        costs[what] = {name: [cost for _, cost in values] for name, values in pairs.items()}
    for what, _ in both:
        yield _line(f"one stream {what}", "MiB/s", rates[what], goals=fast)
    for what, transfer in both:
        pairs = _rounds(ways, rounds, partial(figures.many_streams, world, transfer=transfer))
        sums = {name: [rate for rate, _ in values] for name, values in pairs.items()}
        shares = {name: [100 * share for _, share in values] for name, values in pairs.items()}
        yield _line(f"eight streams {what}", "MiB/s", sums, goals=fast)
        yield _line(f"last of eight against the first, {what}", "%", shares, goals=[Goal(ratio=90)])
    for what, _ in both:
        yield _line(f"CPU for a GiB {what}", "s", costs[what], lower=True, goals=[Goal(ratio=4.3)])
    for what, sample, goals in (
        ("new stream to first byte", partial(figures.first_bytes, world), (0.7, 0.5)),
        ("one-byte round trip, idle", partial(figures.round_trips, world), (1.0, 1.0)),
    ):
        taken = _joined(_rounds(ways, rounds, sample))
        for label, share, ratio in zip(("p50", "p99"), (0.50, 0.99), goals, strict=True):
            goal = [Goal(ratio=ratio, peer="konnectivity")]
            yield _line(f"{what}, {label}", "ms", _at(taken, share), lower=True, goals=goal)
    taken = _joined(_rounds(ways, rounds, partial(figures.round_trips_beside_download, world)))
    for label, share, limit in (("p50", 0.50, 1.0), ("p99", 0.99, 4.0)):
        what = f"one-byte round trip beside a download, {label}"
        yield _line(what, "ms", _at(taken, share), lower=True, goals=[Goal(ratio=limit)])
    stalled = _rounds(ways, rounds, lambda way: 100 * figures.beside_stalled_reader(world, way))
    yield _line("rate beside a stalled reader, of the rate alone", "%", stalled, goals=[Goal(ratio=90)])
    closed = _rounds(ways, 1, partial(figures.half_close, world))
    yield _line("half-close passes through", "1 = yes", closed, goals=[Goal(ratio=1)])
    peaks = _rounds(ways, 1, partial(figures.peak_memory, world))
    yield _line("peak memory, both ends, eight streams", "MiB", peaks, lower=True, goals=[Goal(ratio=120)])


def _rounds(ways: Sequence[Way], rounds: int, sample: Callable[[Way], T]) -> dict[str, list[T]]:
    """Samples of each way, one of each a round, the order reversed every other round."""
    taken: dict[str, list[T]] = {way.name: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            taken[way.name].append(sample(way))
    return taken


def _joined(taken: dict[str, list[list[float]]]) -> Samples:
    return {name: [value for values in rounds for value in values] for name, rounds in taken.items()}


def _at(taken: Samples, share: float) -> Samples:
    return {name: [percentile(values, share)] for name, values in taken.items()}


def _line(what: str, unit: str, taken: Samples, *, lower: bool = False, goals: Sequence[Goal] = ()) -> Line:
    medians = {name: statistics.median(values) for name, values in taken.items()}
    assert OURS in medians
    return Line(what=what, unit=unit, figures=medians, higher_is_better=not lower, goals=goals)


if __name__ == "__main__":
    sys.exit(main())
