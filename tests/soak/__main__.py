"""`make soak`: mixed load on a gateway and two sites for a given time; fails on growth.

python -m tests.soak [--minutes M] [--seed N] [--copies-only]

First two copies of a GiB live through cuts (`copies`; --copies-only ends there). Then the time is cut into
turns: load from visitors of all kinds, an uplink cut and mended under them, then rest,
and a look at memory, descriptors, tasks and streams of every process.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab import programs, raven
from tests.lab.errors import LabError
from tests.lab.raven import Agent, Daemon, Gateway
from tests.lab.waiting import wait_until
from tests.lab.world import World, missing
from tests.soak.copies import copies
from tests.soak.growth import Look, grown
from tests.soak.load import PORT, Crowd

TURN = 15.0  # seconds of load
REST_MAX = 20.0  # seconds until the last stream has ended
SETTLE = 2.0  # seconds more, for what is written now and then
TURNS_MIN = 6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Looks for what grows.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, about; at least 2")
    parser.add_argument("--copies-only", action="store_true", help="end after the copies through cuts")
    parser.add_argument("--seed", type=int, default=1, help="of the visitors' choices")
    options = parser.parse_args()
    if reason := missing():
        print(f"make soak: {reason}", file=sys.stderr)
        return 2
    try:
        with World() as world:
            problems = soak(world, minutes=0.0 if options.copies_only else options.minutes, seed=options.seed)
    except LabError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"soak: {problem}", file=sys.stderr)
    print("soak: something grew or broke" if problems else "soak: nothing grew, nothing broke")
    return 1 if problems else 0


def soak(world: World, *, minutes: float, seed: int) -> list[str]:
    """What grew or broke, a sentence each. No `minutes`: the copies alone."""
    for site in world.sites.values():
        site.machine.start(sys.executable, "-m", "bench.traffic", str(PORT), name=f"traffic@{site.name}")
    gateway, agents = _up(world)
    daemons: list[Daemon] = [gateway, *agents.values()]
    looks: dict[str, list[Look]] = {daemon.name: [] for daemon in daemons}
    copied = copies(world, gateway, world.sites["a"], seed=seed)
    print(f"copies: {copied}", flush=True)
    problems = copied.problems
    if not minutes:
        return problems
    until = time.monotonic() + 60 * minutes
    turn = 0
    while turn < TURNS_MIN or time.monotonic() < until:
        crowd = Crowd(world, seed=seed + turn)
        time.sleep(TURN / 3)
        letter = "ab"[turn % 2]
        world.set_uplink(letter, up=False)
        time.sleep(TURN / 6)
        world.set_uplink(letter, up=True)
        for agent in agents.values():
            wait_until(lambda: _answers(gateway, agent.name), what=f"{agent.name} to answer", seconds=60)  # noqa: B023
        time.sleep(TURN / 2)
        crowd.leave()
        problems += [f"turn {turn + 1}: {what}, {count} times" for what, count in crowd.failed.items()]
        rest(daemons)
        for daemon in daemons:
            looks[daemon.name].append(look(daemon))
        turn += 1
        print(f"turn {turn}: {sum(crowd.came.values())} visits; {_shown(looks)}", flush=True)
    for name, seen in looks.items():
        problems += grown(name, seen)
    for daemon in daemons:
        if "Traceback" in daemon.log():
            problems.append(f"{daemon.name} logged a traceback")
    return problems


def _up(world: World) -> tuple[Gateway, dict[str, Agent]]:
    gateway = raven.gateway(world, "--log-level", "warning")
    gateway.start()
    gateway.ready()
    agents = {}
    for letter, site in world.sites.items():
        agent = raven.agent(site, "--allow", f"node:{PORT}", "--log-level", "warning")
        agent.join(gateway.token("--node", agent.name))
        agent.start()
        agents[letter] = agent
    gateway.wait_for(*(agent.name for agent in agents.values()))
    for site in world.sites.values():
        programs.ping_until(world.cloud_pod, site.pod_address, seconds=15)
    return gateway, agents


def _answers(gateway: Gateway, name: str) -> bool:
    """Asked, not read off the status: a tunnel that was cut looks well until somebody needs it."""
    return gateway.ctl("ping", name, "-c", "1", check=False).code == 0


def rest(daemons: Sequence[Daemon], *, kept: int = 0) -> None:
    """Returns when the last stream has ended, but for `kept` that visitors keep for the next time."""

    def quiet() -> bool:
        return all(_streams(daemon) <= kept for daemon in daemons)

    wait_until(quiet, what="the last stream to end", seconds=REST_MAX)
    time.sleep(SETTLE)


def _streams(daemon: Daemon) -> int:
    return len(daemon.ctl_json("top", "-i", "0.1", "-m", "0"))


def look(daemon: Daemon) -> Look:
    """What it holds now."""
    assert daemon.process is not None
    status = daemon.ctl_json("status", check=False)
    return Look(
        resident=daemon.process.resident_bytes(),
        descriptors=len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())),
        tasks=int(status["tasks"]),
        streams=_streams(daemon),
    )


def _shown(looks: dict[str, list[Look]]) -> str:
    return ", ".join(
        f"{name} {seen[-1].resident / 1e6:.1f} MB {seen[-1].descriptors} files {seen[-1].tasks} tasks"
        for name, seen in looks.items()
    )


if __name__ == "__main__":
    sys.exit(main())
