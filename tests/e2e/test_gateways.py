"""Two gateways without Kubernetes: one is killed, one is drained, and requests through the other never fail.

    curl ── gw-1 (cloud: the CA) ──┐
    curl ── gw-2 (internet) ───────┴═══ two tunnels each ═══ site-a, site-b
                                                               pod-a    pod-b

The second one stands on the machine in the middle, which everybody can dial.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.e2e.conftest import serve_files
from tests.lab import programs, raven, wires
from tests.lab.raven import Agent, Gateway
from tests.lab.waiting import wait_until
from tests.lab.world import World

pytestmark = pytest.mark.netns

URL = "http://site-a:8080/name"
# Seconds. Two probes of 2 attempts of 3 s go unanswered, then a handshake with the other hub takes a
# round trip; the rest is for a machine at work. Streams wait 60 s for their tunnel's return.
FAILOVER_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Pair:
    world: World
    first: Gateway
    second: Gateway
    agents: dict[str, Agent]

    def whole(self) -> None:
        """Returns when both gateways serve both sites."""
        for gateway in (self.first, self.second):
            gateway.wait_for("site-a", "site-b", lanes=("stream_lane",), seconds=40)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with World() as world:
        serve_files(world)
        for site in world.sites.values():
            programs.iperf_server(site.pod)
        first, agents = raven.up(world, "--drain-grace-seconds", "2", name="gw-1")
        ranges = [word for cidr in wires.POD_RANGES for word in ("--pod-range", cidr)]
        second = Gateway(
            world.internet,
            name="gw-2",
            host=wires.CLOUD_ROUTER,
            options=["--drain-grace-seconds", "2", *ranges],
        )
        second.follow(first)
        second.start()
        second.ready()
        found = Pair(world, first, second, agents)
        found.whole()
        yield found


@dataclass(slots=True)
class Load:
    """curl after curl through gateways that say they are ready, by several clients, until `stop`."""

    gateways: tuple[Gateway, ...]
    ready_first: bool  # ask /healthz before each request, as a load balancer would now and then
    done: int = 0
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, turn: int) -> None:
        while not self._stop.is_set():
            turn += 1
            gateway = self.gateways[turn % len(self.gateways)]
            if self.ready_first and not is_ready(gateway):
                continue
            code, body = gateway.status_of(URL, "-p")
            if (code, body) != (200, "site-a"):
                self.failed.append(f"{gateway.name} at {time.monotonic():.2f}: {code} {body!r}")
            self.done += 1

    def stop(self) -> None:
        self._stop.set()


def is_ready(gateway: Gateway) -> bool:
    answer = gateway.machine.run("curl", "-sS", "-m", "5", "-f", f"http://{raven.OAM}/healthz", check=False)
    return answer.code == 0


def under(load: Load, clients: int = 3) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(clients)
    for turn in range(clients):
        pool.submit(load.run, turn)
    wait_until(lambda: load.done >= 5, what="the load", seconds=30)
    return pool


def test_any_gateway_serves_any_node_and_all_say_who_is_there(pair: Pair) -> None:
    for gateway in (pair.first, pair.second):
        for site in ("site-a", "site-b"):
            assert gateway.status_of(f"http://{site}:8080/name") == (200, site)
    uplinks = pair.agents["a"].ctl_json("status")["uplinks"]
    assert [(up["name"], up["lane"]["state"]) for up in uplinks] == [("gw-1", "up"), ("gw-2", "up")]
    (other,) = pair.first.ctl_json("status")["gateways"]
    assert (other["name"], other["lane"]["state"]) == ("gw-2", "up")
    (other,) = pair.second.ctl_json("status")["gateways"]
    assert (other["name"], other["lane"]["state"]) == ("gw-1", "up")


def test_a_killed_gateway_costs_the_others_nothing(pair: Pair) -> None:
    """SIGKILL under load, to the one with the CA: every request through the other is answered."""
    load = Load((pair.second,), ready_first=False)
    process = pair.first.process
    assert process is not None
    pool = under(load)
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)
        killed = load.done
        # A new request at once, and then long enough for agents and follower to have noticed.
        assert pair.second.status_of("http://site-b:8080/name") == (200, "site-b")
        wait_until(
            lambda: pair.second.ctl_json("status", check=False)["gateways"][0]["lane"]["state"] == "down",
            what="the follower to say so",
            seconds=20,
        )
        wait_until(lambda: load.done >= killed + 10, what="more requests", seconds=30)
    finally:
        load.stop()
        pool.shutdown()
        pair.first.start()
        pair.first.ready()
    assert load.failed == []
    pair.whole()


def test_packets_move_to_the_other_hub_when_theirs_is_gone(pair: Pair) -> None:
    """The first gateway dies with its device; pods of the sites reach each other through the second's.

    Long before the streams of the broken tunnel are given up, and back when the first one is there again.
    """
    site_a, site_b = pair.world.sites["a"], pair.world.sites["b"]
    cloud = pair.first.machine

    def goes_through(address: str) -> bool:
        endpoints = site_a.machine.run("wg", "show", site_a.machine.interface, "endpoints").out
        return f"{address}:4500" in endpoints

    wait_until(lambda: goes_through(wires.CLOUD), what="the first hub", seconds=20)
    programs.ping_until(site_a.pod, site_b.pod_address, seconds=10)
    process = pair.first.process
    assert process is not None
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)
        cloud.run("ip", "link", "del", cloud.interface)  # which ends its raven-wg
        programs.ping_until(site_a.pod, site_b.pod_address, seconds=FAILOVER_MAX)
        assert goes_through(wires.CLOUD_ROUTER)
    finally:
        pair.first.start()
        pair.first.ready()
    pair.first.wait_for("site-a", "site-b", seconds=40)
    assert goes_through(wires.CLOUD)
    programs.ping_until(site_a.pod, site_b.pod_address, seconds=10)
    pair.whole()


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_drain_fails_no_request(pair: Pair, which: str) -> None:
    """SIGTERM under load: who asks /healthz first loses nothing, and a download ends whole."""
    leaving: Gateway = getattr(pair, which)
    load = Load((pair.first, pair.second), ready_first=True)
    pool = under(load)
    target = pair.world.directory / "drained"
    target.unlink(missing_ok=True)
    try:
        with ThreadPoolExecutor() as extra:
            options = ("-f", "-o", str(target), "--limit-rate", "8M")
            download = extra.submit(leaving.curl, "http://site-b:8080/big", *options, seconds=30)
            wait_until(lambda: target.exists() and target.stat().st_size > 0, what="bytes", seconds=10)
            process = leaving.process
            assert process is not None
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_ready(leaving), what="503 at /healthz", seconds=5)
            assert process.wait(20) == 0, leaving.log()[-2000:]
            answer = download.result()
        ended = load.done
        wait_until(lambda: load.done >= ended + 5, what="requests after the end", seconds=30)
    finally:
        load.stop()
        pool.shutdown()
        leaving.start()
        leaving.ready()
    assert (answer.code, target.stat().st_size) == (0, 32 << 20), answer.err
    assert load.failed == []
    pair.whole()
