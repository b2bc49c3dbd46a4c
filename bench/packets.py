"""`make bench-packets`: the packet lane's device beside wireguard-go, every column measured in the same run.

Debian's wireguard-go always; WIREGUARD_GO=path adds a newer one, which the goals then refer to. The
contestants take turns, and medians are shown. Both ends, what they are measured with and the kernel share the
machine's cores, so a figure is what two hosts of half that size would do.

python -m bench.packets [--rounds N] [--only wire,pods,handshakes,flood]
"""

import argparse
import contextlib
import secrets
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from bench import packet_load as load
from bench.devices import DEBIAN, PLAIN, Contestant, Place, contestants, hub, one_wire, pods
from bench.grid import Goal, Line, markdown, rendered
from bench.initiators import Initiators
from bench.table import Row, machine
from raven.keys import PrivateKey
from raven.wg.primitives import DhPrivateKey
from tests.lab.errors import LabError
from tests.lab.world import missing

PEERS = 1000
_TURNS = 4  # initiations of each peer in a round
_FLOOD_PEERS = 100
_FLOOD_RATE = 15_000  # initiations a second, each with a valid mac1
_FLOOD_TRIES = 3  # the first brings a cookie, the second uses it
_FLOOD_SECONDS = 14.0


class Figure(NamedTuple):
    """One row: what it is, and what is wanted of ours divided by the newest wireguard-go's; 0: nothing is."""

    what: str
    unit: str
    plain: float = 0.0
    superframes: float = 0.0
    higher_is_better: bool = True
    most: float = 0.0  # in `unit`, whatever theirs is

    def line(self, columns: Sequence[Contestant], values: Mapping[str, float]) -> Line:
        """The row with its figures by the contestants' names."""
        newest = [one.name for one in columns if not one.ours][-1]
        goals = []
        for one in columns:
            ratio = self.superframes if one.superframes else self.plain
            if one.ours and self.most:
                goals.append(Goal(ratio=self.most, ours=one.name))
            elif one.ours and ratio:
                goals.append(Goal(ratio=ratio, peer=newest, ours=one.name))
        return Line(
            what=self.what,
            unit=self.unit,
            figures=values,
            higher_is_better=self.higher_is_better,
            goals=[goal for goal in goals if goal.ours in values],
        )


Measurement = Callable[[Place], Sequence[float]]

_WIRE: Sequence[tuple[Measurement, Sequence[Figure]]] = (
    (
        load.one_stream,
        (
            Figure("one TCP stream", "Gb/s", 1.0, 2.0),
            Figure("CPU of both devices for a GB", "s", 1.0, 0.6, higher_is_better=False),
        ),
    ),
    (load.four_streams, (Figure("four TCP streams", "Gb/s", 1.0, 1.7),)),
    (load.both_directions, (Figure("both directions at once", "Gb/s", 1.0, 1.7),)),
    (
        load.pings,
        (
            Figure("ping round trip, 1000 a second, p50", "ms", 0.6, 0.6, higher_is_better=False),
            Figure("the same, p99", "ms", 0.6, 0.6, higher_is_better=False),
        ),
    ),
    (load.small_flood, (Figure("UDP flood of 64 bytes, delivered", "k/s", 1.2, 1.2),)),
    (load.large_flood, (Figure("UDP flood of 1300 bytes, delivered", "Mb/s", 1.2, 1.2),)),
)
_PODS: Sequence[tuple[Measurement, Sequence[Figure]]] = (
    (
        load.one_stream,
        (
            Figure("pod to pod through NAT, one TCP stream", "Gb/s", 1.0, 1.0),
            Figure("CPU of both devices for a GB", "s", 1.0, 0.6, higher_is_better=False),
        ),
    ),
)
_HANDSHAKES = Figure("handshakes, as responder", "/s", 0.5)
_FLOOD = Figure(
    f"peers served within {_FLOOD_SECONDS:.0f} s, {_FLOOD_RATE:,} forged initiations a second", "%", 1.0
)
_IDLE = Figure("memory, idle", "MB", higher_is_better=False, most=45)
_PER_PEER = Figure(f"memory for each of {PEERS:,} idle peers", "kB", higher_is_better=False, most=20)


def traffic(
    place: Callable[[Contestant], contextlib.AbstractContextManager[Place]],
    trials: Sequence[tuple[Measurement, Sequence[Figure]]],
    columns: Sequence[Contestant],
    rounds: int,
) -> Iterator[Line]:
    """All contestants stand at once, so that turns are short; what is not measured is idle."""
    with contextlib.ExitStack() as stack:
        places = {one: stack.enter_context(place(one)) for one in columns}
        for measure, figures in trials:
            results: dict[Contestant, list[Sequence[float]]] = {one: [] for one in columns}
            for number in range(rounds):
                for one in columns if number % 2 == 0 else reversed(columns):
                    results[one].append(measure(places[one]))
            for index, figure in enumerate(figures):
                medians = {
                    one.name: statistics.median(result[index] for result in results[one]) for one in columns
                }
                yield figure.line(columns, medians)


def handshakes(columns: Sequence[Contestant], rounds: int) -> Iterator[Line]:
    """One device with 1,000 peers, each of which initiates some times; before and after, its memory."""
    private, initiators = _initiators(PEERS, _TURNS * rounds)
    idle: dict[str, float] = {}
    each: dict[str, float] = {}
    rates: dict[str, list[float]] = {one.name: [] for one in columns if not one.superframes}
    with contextlib.ExitStack() as stack:
        hubs = {one: stack.enter_context(hub(one, private)) for one in columns if not one.superframes}
        for one, place in hubs.items():
            idle[one.name] = place.resident() / 1e6
            place.add_peers(initiators.public)
        for number in range(rounds):
            turns = range(number * _TURNS, (number + 1) * _TURNS)
            for one, place in hubs.items():
                rates[one.name].append(initiators.handshakes_per_second(place.sender, place.address, turns))
        for one, place in hubs.items():
            each[one.name] = (place.resident() / 1e3 - idle[one.name] * 1e3) / PEERS
    medians = {name: statistics.median(values) for name, values in rates.items()}
    yield _HANDSHAKES.line(columns, medians)
    yield _IDLE.line(columns, idle)
    yield _PER_PEER.line(columns, each)


def flood(columns: Sequence[Contestant]) -> Iterator[Line]:
    """One device while strangers who know its public key send it initiations of their own making."""
    private, initiators = _initiators(_FLOOD_PEERS, _FLOOD_TRIES)
    served: dict[str, float] = {}
    for one in columns:
        if not one.superframes:
            with hub(one, private) as place:
                place.add_peers(initiators.public)
                share = initiators.served_under_flood(
                    *(place.sender, place.address, range(_FLOOD_TRIES)),
                    rate=_FLOOD_RATE,
                    seconds=_FLOOD_SECONDS,
                )
                served[one.name] = 100 * share
    yield _FLOOD.line(columns, served)


def _initiators(count: int, each: int) -> tuple[PrivateKey, Initiators]:
    private = PrivateKey.clamped(secrets.token_bytes(32))
    return private, Initiators(DhPrivateKey(private).public, count, each)


def measure(rounds: int) -> Iterator[Row]:
    """Rows for `make bench`: ours beside Debian's wireguard-go."""
    columns = [DEBIAN, PLAIN]
    for line in (*traffic(one_wire, _WIRE, columns, rounds), *traffic(pods, _PODS, columns, rounds)):
        yield Row(
            what=f"packets, {line.what}",
            unit=line.unit,
            ours=line.figures[PLAIN.name],
            peer=DEBIAN.name,
            theirs=line.figures[DEBIAN.name],
            higher_is_better=line.higher_is_better,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.packets", description="raven-wg and wireguard-go.")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement; medians are shown")
    parser.add_argument("--only", default="wire,pods,handshakes,flood", help="comma list of %(default)s")
    parser.add_argument("--markdown", action="store_true", help="the table as bench/results keeps it")
    options = parser.parse_args()
    if reason := missing():
        print(f"make bench-packets: {reason}", file=sys.stderr)
        return 2
    where = machine()
    rounds = options.rounds
    lines: list[Line] = []
    failed = 0
    try:
        columns = contestants()
        parts: dict[str, Callable[[], Iterator[Line]]] = {
            "wire": lambda: traffic(one_wire, _WIRE, columns, rounds),
            "pods": lambda: traffic(pods, _PODS, columns, rounds),
            "handshakes": lambda: handshakes(columns, rounds),
            "flood": lambda: flood(columns),
        }
        for name in options.only.split(","):
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            lines += parts[name]()
    except KeyError as error:
        parser.error(f"there is no {error}; choose from {', '.join(parts)}")
    except LabError as error:
        print(f"make bench-packets: {error}", file=sys.stderr)
        failed = 1  # and what was measured before is shown
    if options.markdown:
        print(f"{where}; medians of {rounds} rounds\n\n{markdown(lines)}", end="")
        return failed
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(rendered(lines, title=f"medians of {rounds} rounds, the contestants in turns"))
    print(where)
    return failed


if __name__ == "__main__":
    sys.exit(main())
