"""`make bench-kube`: kubectl through Raven beside kubectl without it, on a real Kubernetes.

python -m bench.kube [--rounds N] [--only exec,cp,objects] [--ways names,...] [--write]

All API servers stand at once, and a round asks each in turn. Directly means that the site's router forwards
the kubelet's port: the same machines and cables, without gateway and agent.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from bench import kube_objects
from bench.grid import OURS, Goal, Line, markdown, rendered
from bench.table import machine, percentile
from tests.e2e_kube import binaries, ways
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.raven import Raven, up
from tests.lab.errors import LabError

RESULTS = Path(__file__).with_name("results")
DIRECTLY = "directly"
EXECS = 50  # of each contestant, one after the other
SIZE = 1 << 30  # bytes of the copied file
POD = "ticker-site-a"

Servers = Mapping[str, ApiServer]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kube", description="kubectl through Raven.")
    parser.add_argument("--rounds", type=int, default=3, help="copies of each contestant; medians are shown")
    parser.add_argument("--only", default="exec,cp,objects", help="comma list of %(default)s")
    parser.add_argument("--ways", default=",".join(ways.WAYS), help="comma list of %(default)s")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/results/kube-*.md")
    options = parser.parse_args()
    if reason := binaries.missing():
        print(f"make bench-kube: {reason}", file=sys.stderr)
        return 2
    tables: dict[str, list[Line]] = {}
    where = machine()
    only = options.only.split(",")
    try:
        if "objects" in only:
            tables["objects"] = list(kube_objects.measure())
        if through := [name for name in only if name in MEASURES]:
            with Cluster(sites=("a",)) as cluster:
                raven = up(cluster)
                servers = {name: ways.WAYS[name](cluster) for name in options.ways.split(",")}
                servers[DIRECTLY] = ways.direct(cluster)
                for name in through:
                    tables[name] = list(MEASURES[name](raven, servers, options.rounds))
    except (LabError, OSError) as error:
        print(f"make bench-kube: {error}", file=sys.stderr)
        return 1
    console = Console()
    console = console if console.is_terminal else Console(width=140)
    titles = {
        "objects": "Objects only, in a real API server on the same machine",
        "exec": f"{EXECS} runs of each, interleaved",
        "cp": f"A file of {SIZE >> 30} GiB, medians of {options.rounds} interleaved rounds",
    }
    for name, lines in tables.items():
        console.print(rendered(lines, title=titles[name]))
        if options.write:
            of = "A cluster's objects" if name == "objects" else f"kubectl {name} through Raven, and directly"
            command = f"`make bench-kube ARGS='{shlex.join(sys.argv[1:])}'`"
            head = f"# {of}\n\n{where}. {titles[name]}. {command}"
            (RESULTS / f"kube-{name}.md").write_text(f"{head}\n\n{markdown(lines)}")
    print(where)
    return 0


def execs(raven: Raven, servers: Servers, rounds: int) -> Iterator[Line]:
    """`kubectl exec true`, from its start to its end."""

    def once(server: ApiServer) -> float:
        began = time.perf_counter()
        server.kubectl("exec", POD, "--", "true")
        return (time.perf_counter() - began) * 1000

    taken = _interleaved(EXECS, servers, once)
    for label, share, goals in (("p50", 0.5, [Goal(ratio=1.15, peer=DIRECTLY)]), ("p99", 0.99, [])):
        for name in _ways(servers):
            figures = {key: percentile(taken[of], share) for key, of in ((OURS, name), (DIRECTLY, DIRECTLY))}
            what = f"kubectl exec true by {name}, {label}"
            yield Line(what=what, unit="ms", figures=figures, higher_is_better=False, goals=goals)


def copies(raven: Raven, servers: Servers, rounds: int) -> Iterator[Line]:
    """`kubectl cp` of one large file, there and back, and what gateway and agent need for it."""
    directory = raven.gateway.machine.directory
    file, back = directory / "big", directory / "back"
    costs: dict[tuple[str, int], list[float]] = {}  # CPU seconds, by target and port of the API server
    block = bytes(range(256)) * 4096
    with file.open("wb") as out:
        for _ in range(SIZE // len(block)):
            out.write(block)

    def rate(server: ApiServer, source: str, target: str) -> float:
        began, spent = time.perf_counter(), _spent(raven)
        server.kubectl("cp", source, target, seconds=300)
        costs.setdefault((target, server.port), []).append(_spent(raven) - spent)
        return SIZE / (1 << 20) / (time.perf_counter() - began)

    for what, source, target in (
        ("to the pod", str(file), f"{POD}:/tmp/big"),
        ("from the pod", f"{POD}:/tmp/big", str(back)),
    ):
        taken = _interleaved(rounds, servers, partial(rate, source=source, target=target))
        if target == str(back) and back.stat().st_size != SIZE:
            raise LabError(f"{back.stat().st_size} bytes came back of {SIZE}")
        for name in _ways(servers):
            figures = {OURS: statistics.median(taken[name]), DIRECTLY: statistics.median(taken[DIRECTLY])}
            goals = [Goal(ratio=0.8, peer=DIRECTLY)]
            yield Line(what=f"kubectl cp {what} by {name}", unit="MiB/s", figures=figures, goals=goals)
            cost = {OURS: statistics.median(costs[target, servers[name].port])}
            of = f"CPU of gateway and agent for kubectl cp {what} by {name}"
            yield Line(what=of, unit="s", figures=cost, higher_is_better=False)


def _spent(raven: Raven) -> float:
    """CPU seconds of gateway and agents so far."""
    daemons = (raven.gateway, *raven.agents.values())
    return sum(one.process.cpu_seconds() for one in daemons if one.process is not None)


MEASURES = {"exec": execs, "cp": copies}


def _ways(servers: Servers) -> list[str]:
    return [name for name in servers if name != DIRECTLY]


def _interleaved(
    rounds: int, servers: Servers, measure: Callable[[ApiServer], float]
) -> dict[str, list[float]]:
    """Figures of every contestant, one of each a round, the order reversed every other round."""
    taken: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds):
        order = list(servers) if number % 2 == 0 else list(reversed(list(servers)))
        for name in order:
            taken[name].append(measure(servers[name]))
    return taken


if __name__ == "__main__":
    sys.exit(main())
