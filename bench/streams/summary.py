"""The figures of the stream lane that `make bench` shows: one stream and a new one, beside `ssh -R`."""

import socket
import time
from collections.abc import Callable, Iterator

from bench import traffic
from bench.streams.ways import Way, build
from bench.table import Row, interleaved, percentile
from tests.lab.world import World

PEER = "ssh -R"
_SECONDS = 2.0  # of each transfer
_CONNECTS = 100  # in a row of each contestant, each round


def measure(rounds: int) -> Iterator[Row]:
    with World(sites=("a",)) as world:
        ways = {way.name: way for way in build(world)}
        ours, theirs = ways["Raven"], ways[PEER]
        for what, transfer in (("edge to cloud", traffic.download), ("cloud to edge", traffic.upload)):
            yield _throughput(world, ours, theirs, what, transfer, rounds)
        yield from _latency(world, ours, theirs, rounds)


def _throughput(
    world: World,
    ours: Way,
    theirs: Way,
    what: str,
    transfer: Callable[[socket.socket, float], float],
    rounds: int,
) -> Row:
    def one(way: Way) -> float:
        with world.cloud.inside(way.dial) as peer:
            return transfer(peer, _SECONDS)

    medians = interleaved(rounds, {"ours": lambda: one(ours), "theirs": lambda: one(theirs)})
    return Row(
        what=f"one stream, {what}",
        unit="Gb/s",
        ours=medians["ours"],
        peer=PEER,
        theirs=medians["theirs"],
        goal=1.0,
    )


def first_byte(way: Way) -> float:
    """Milliseconds from connect() to the server's first byte; in the cloud's namespace."""
    began = time.perf_counter()
    with way.dial() as peer:
        traffic.echo(peer)
    return (time.perf_counter() - began) * 1000


def _latency(world: World, ours: Way, theirs: Way, rounds: int) -> Iterator[Row]:
    """From connect() to the first byte of the server, one after the other on an idle machine."""

    def many(way: Way) -> list[float]:
        return world.cloud.inside(lambda: [first_byte(way) for _ in range(_CONNECTS)])

    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        order = [("ours", ours), ("theirs", theirs)]
        for name, way in order if number % 2 == 0 else reversed(order):
            taken[name] += many(way)
    for label, share, goal in (("p50", 0.50, 3.0), ("p99", 0.99, None)):
        yield Row(
            what=f"new connection to first byte, {label}",
            unit="ms",
            ours=percentile(taken["ours"], share),
            peer=PEER,
            theirs=percentile(taken["theirs"], share),
            higher_is_better=False,
            goal=goal,
        )
