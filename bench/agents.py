"""Many idle agents on one gateway, each a real process, beside as many `ssh -R` on one sshd.

What an idle agent costs its device and its link, and what many of them cost the gateway, in memory and CPU.

    python -m bench.agents STATE-DIRECTORY HOST:PORT TOKEN COUNT      joins that many nodes, for `measure`
"""

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from agent.join import join
from bench.table import Row
from bench.wire import idle_wire
from raven.config import Address
from tests.lab import programs, raven, wires
from tests.lab.process import Process
from tests.lab.waiting import wait_until
from tests.lab.world import World

AGENTS = 100
# Seconds: the first idle pings, 25 s apart, which are all that happens. Later they are up to 50 s apart, so
# the bytes of this time, taken for a day, are an upper bound.
_IDLE = 75.0
# Seconds until the stream lane's pings are 50 s apart, which they are for the rest of the day.
_PACED = 420.0
_IDLE_PACKETS = 300.0  # seconds: WireGuard's handshake comes twice in that time
_SETTLE = 5.0  # seconds after the last one connected, for its first messages and probes


def measure(rounds: int) -> Iterator[Row]:
    """One round whatever `rounds` says: a minute of idleness is its own average."""
    with World(sites=("a",)) as world:
        yield from _ours_and_theirs(world, AGENTS)
    yield from _with_packets()


def _with_packets() -> Iterator[Row]:
    with World(sites=("a",)) as world:
        _, agents = raven.up(world)
        process = agents["a"].process
        assert process is not None
        time.sleep(_PACED)
        wire = idle_wire(world.internet, "to-a")
        time.sleep(_IDLE_PACKETS)
        cost = wire()
        yield Row(
            what="idle agent with packet lane, memory",
            unit="MB",
            ours=process.resident_bytes() / 1e6,
            higher_is_better=False,
            goal=48,
        )
        yield Row(
            what="idle agent with packet lane, on the wire",
            unit="MB/day",
            ours=cost,
            higher_is_better=False,
            goal=1,
        )


def _ours_and_theirs(world: World, count: int) -> Iterator[Row]:
    gateway = raven.gateway(world, "--no-packets")
    gateway.start()
    gateway.ready()
    site = world.sites["a"]
    states = world.directory / "states"
    token = gateway.token("--reusable")
    site.machine.run(
        *(sys.executable, "-m", "bench.agents", str(states), raven.AGENTS, token, str(count)),
        seconds=60 + count,
    )
    ours = []
    for number in range(count):
        agent = raven.agent(site, "--no-packets", name=f"edge-{number}", pod_cidrs=[])
        agent.state = states / agent.name
        ours.append(agent.start())
    wait_until(
        lambda: sum(node["connected"] for node in gateway.nodes().values()) == count,
        what=f"{count} agents to connect",
        seconds=60 + count,
    )
    server = programs.sshd(world.cloud, max_startups=2 * count)
    theirs = [
        site.machine.start(*server.client(wires.CLOUD, "-N", "-R", f"127.0.0.1:{20000 + number}:127.0.0.1:9"))
        for number in range(count)
    ]
    expected = {20000 + number for number in range(count)}
    wait_until(
        lambda: expected <= server.process.listening(),
        what=f"{count} ssh -R",
        seconds=60 + count,
    )
    time.sleep(_SETTLE)
    assert gateway.process is not None
    ours_cpu, gateway_cpu = _idle_cpu(ours), _idle_cpu([gateway.process])
    theirs_cpu = _idle_cpu(theirs)
    wire = idle_wire(world.internet, f"to-{site.letter}", agents=count)  # an idle ssh sends nothing
    time.sleep(_IDLE)
    yield Row(
        what="idle agent, on the wire",
        unit="MB/day",
        ours=wire(),
        higher_is_better=False,
        goal=1,
    )
    yield Row(
        what="idle agent, memory",
        unit="MB",
        ours=statistics.median(process.resident_bytes() for process in ours) / 1e6,
        peer="ssh -R",
        theirs=statistics.median(process.resident_bytes() for process in theirs) / 1e6,
        higher_is_better=False,
        goal=48,
    )
    yield Row(
        what="idle agent, CPU",
        unit="%",
        ours=ours_cpu(),
        peer="ssh -R",
        theirs=theirs_cpu(),
        higher_is_better=False,
        goal=0.2,
    )
    yield Row(
        what=f"gateway with {count} agents, memory",
        unit="MB",
        ours=gateway.process.resident_bytes() / 1e6,
        peer="sshd",
        theirs=_shared_bytes(server.process) / 1e6,
        higher_is_better=False,
        goal=200,
    )
    yield Row(
        what=f"gateway with {count} idle agents, CPU",
        unit="%",
        ours=gateway_cpu(),
        higher_is_better=False,
    )


def _idle_cpu(processes: list[Process]) -> Callable[[], float]:
    """Gives the mean share of one core, in percent, between this call and that of what it returns."""
    began = time.monotonic()
    before = sum(process.cpu_seconds() for process in processes)

    def later() -> float:
        used = sum(process.cpu_seconds() for process in processes) - before
        return used / len(processes) / (time.monotonic() - began) * 100

    return later


def _shared_bytes(server: Process) -> int:
    """Memory of sshd and all it forked, shared pages counted once (PSS): there are two for each tunnel."""
    total = 0
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile
                if (path / "comm").read_text().startswith("sshd") and _same_network(path, server):
                    rollup = (path / "smaps_rollup").read_text()
                    total += int(rollup.partition("\nPss:")[2].split()[0]) * 1024
    return total


def _same_network(path: Path, server: Process) -> bool:
    return (path / "ns/net").stat().st_ino == Path(f"/proc/{server.pid}/ns/net").stat().st_ino


async def join_many(states: Path, gateway: str, token: str, count: int) -> None:
    """Joins the nodes edge-0 to edge-(count - 1), each with a state directory of its own."""
    for number in range(count):
        name = f"edge-{number}"
        await join(states / name, gateway=Address.parse(gateway), token=token, node=name)


if __name__ == "__main__":
    states, gateway, token, count = sys.argv[1:]
    Path(states).mkdir(mode=0o700, exist_ok=True)
    trio.run(join_many, Path(states), gateway, token, int(count))
