"""One proxied TCP stream, and how soon a new one answers: through gateway and agent, and through `ssh -R`.

Both ways stand at once between the same two namespaces, with a NAT between them: the edge dials, the cloud
uses a port of its own. What they share: the server, the client, the two cores.
"""

import dataclasses
import socket
import sys
import time
from collections.abc import Callable, Iterator

from bench import traffic
from bench.table import Row, interleaved, percentile
from tests.lab import programs, raven, wires
from tests.lab.world import World

PEER = "ssh -R"
_TARGET = 7000  # the measured server, at the edge
_FORWARDED = 7001  # where `ssh -R` makes it appear in the cloud
_SECONDS = 2.0  # of each transfer
_CONNECTS = 100  # in a row of each contestant, each round


@dataclasses.dataclass(frozen=True, slots=True)
class Ways:
    """How to connect to the server at the edge, from the cloud's namespace."""

    world: World
    ours: Callable[[], socket.socket]
    theirs: Callable[[], socket.socket]


def measure(rounds: int) -> Iterator[Row]:
    with World(sites=("a",)) as world:
        ways = build(world)
        for what, transfer in (("edge to cloud", traffic.download), ("cloud to edge", traffic.upload)):
            yield _throughput(ways, what, transfer, rounds)
        yield from _latency(ways, rounds)


def build(world: World) -> Ways:
    """Gateway and agent on one hand, sshd and ssh on the other, one server behind both."""
    site = world.sites["a"]
    site.machine.start(sys.executable, "-m", "bench.traffic", str(_TARGET)).ready(_TARGET)
    gateway = raven.gateway(world, "--no-packets")
    gateway.start()
    gateway.ready()
    agent = raven.agent(site, "--no-packets", "--allow", f"node:{_TARGET}")
    agent.join(gateway.token())
    agent.start()
    gateway.wait_for(site.name, lanes=["stream_lane"])
    server = programs.sshd(world.cloud)
    forward = f"127.0.0.1:{_FORWARDED}:127.0.0.1:{_TARGET}"
    site.machine.start(*server.client(wires.CLOUD, "-N", "-R", forward), name="ssh-R")
    server.process.ready(_FORWARDED)
    return Ways(world, ours=lambda: connect(site.name), theirs=_connect_forwarded)


def connect(node: str) -> socket.socket:
    """A stream to the node's server, by CONNECT; ConnectionError with the gateway's words otherwise."""
    host, _, port = raven.OAM.rpartition(":")
    peer = socket.create_connection((host, int(port)), timeout=10)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(f"CONNECT {node}:{_TARGET} HTTP/1.1\r\nHost: {node}:{_TARGET}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = peer.recv(1)  # the stream behind the head belongs to the server
        if not more:
            raise ConnectionError(f"the gateway said {head!r}")
        head += more
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError(f"the gateway said {head!r}")
    return peer


def _connect_forwarded() -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", _FORWARDED), timeout=10)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _throughput(ways: Ways, what: str, transfer: Callable[[socket.socket, float], float], rounds: int) -> Row:
    def one(dial: Callable[[], socket.socket]) -> float:
        with ways.world.cloud.inside(dial) as peer:
            return transfer(peer, _SECONDS)

    medians = interleaved(rounds, {"ours": lambda: one(ways.ours), "theirs": lambda: one(ways.theirs)})
    return Row(
        what=f"one stream, {what}",
        unit="Gb/s",
        ours=medians["ours"],
        peer=PEER,
        theirs=medians["theirs"],
        goal=1.0,
    )


def _latency(ways: Ways, rounds: int) -> Iterator[Row]:
    """From connect() to the first byte of the server, one after the other on an idle machine."""

    def one(dial: Callable[[], socket.socket]) -> float:
        began = time.perf_counter()
        with dial() as peer:
            traffic.echo(peer)
        return (time.perf_counter() - began) * 1000

    def many(dial: Callable[[], socket.socket]) -> list[float]:
        return ways.world.cloud.inside(lambda: [one(dial) for _ in range(_CONNECTS)])

    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        order = [("ours", ways.ours), ("theirs", ways.theirs)]
        for name, dial in order if number % 2 == 0 else reversed(order):
            taken[name] += many(dial)
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
