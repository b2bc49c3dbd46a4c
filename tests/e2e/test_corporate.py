"""Networks that let nothing out but through their own boxes: an HTTP proxy that wants a password, a balancer.

site-a ── nat-a ──✂── cloud (gateway, 10262)
            └── internet: tinyproxy :3128 ── CONNECT ──▶ cloud
                          nginx :443, by server name ──▶ cloud, with a PROXY protocol header
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import serve_files
from tests.lab import programs, raven, wires
from tests.lab.raven import Agent, Gateway
from tests.lab.waiting import wait_until
from tests.lab.world import Site, World

pytestmark = pytest.mark.netns

PROXY = f"{wires.CLOUD_ROUTER}:3128"
BALANCER = f"{wires.CLOUD_ROUTER}:443"
PASSWORD = "hunter2-of-the-lab"
FENCE = """
table ip fence {
    chain out {
        type filter hook forward priority 0;
        ip daddr 198.51.100.10 drop
    }
}
"""


@dataclass(frozen=True, slots=True)
class Office:
    world: World
    gateway: Gateway

    @property
    def site(self) -> Site:
        return self.world.sites["a"]

    def agent(self, name: str, *options: str) -> Agent:
        return raven.agent(self.site, "--no-packets", *options, name=name, pod_cidrs=[])

    def token(self, name: str) -> str:
        return self.gateway.token("--node", name)


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    with World(sites=("a",)) as world:
        serve_files(world)
        gateway = raven.gateway(world, "--no-packets")
        gateway.start()
        gateway.ready()
        programs.tinyproxy(world.internet, user="me", password=PASSWORD, connect_port=10262)
        world.internet.run("nft", "-f", "-", text=FENCE)
        yield Office(world, gateway)


@contextmanager
def running(agent: Agent) -> Iterator[Agent]:
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()


def detail(agent: Agent) -> str:
    return str(agent.ctl_json("status")["uplinks"][0]["lane"]["detail"])


def test_straight_there_is_no_way(office: Office) -> None:
    """What makes the others worth something."""
    done = office.site.machine.run("nc", "-z", "-w", "1", *raven.AGENTS.split(":"), check=False)
    assert done.code != 0


def test_join_and_run_through_a_proxy_with_a_password(office: Office) -> None:
    url = f"http://me:{PASSWORD}@{PROXY}"
    agent = office.agent("by-proxy", "--proxy", url)
    agent.join(office.token(agent.name), "--proxy", url)
    with running(agent):
        office.gateway.wait_for(agent.name, lanes=("stream_lane",))
        assert office.gateway.status_of(f"http://{agent.name}:8080/name", "-p") == (200, "site-a")
        (uplink,) = agent.ctl_json("status")["uplinks"]
        assert uplink["proxy"] == PROXY
        said = agent.log() + agent.ctl("status").out + agent.ctl("status", "-o", "json").out
        assert PASSWORD not in said
    assert PASSWORD not in "".join(path.read_text() for path in Path(agent.state).iterdir() if path.is_file())


def test_the_environment_is_enough(office: Office) -> None:
    agent = office.agent("by-environment")
    variables = office.site.machine.env
    variables["HTTPS_PROXY"] = f"http://me:{PASSWORD}@{PROXY}"
    try:
        agent.join(office.token(agent.name))
        with running(agent):
            office.gateway.wait_for(agent.name, lanes=("stream_lane",))
            variables["NO_PROXY"] = "198.51.100.0/24"
            refused = office.agent("exempt").join(office.token("exempt"), check=False)
            assert "no answer within" in refused.err
    finally:
        variables.pop("HTTPS_PROXY")
        variables.pop("NO_PROXY", None)


def test_the_checks_go_the_same_way(office: Office) -> None:
    """netcheck and doctor meet the gateway through the proxy, and only there."""

    def told(*command: str) -> dict[str, Any]:
        ran = office.site.machine.run("ravenctl", *command, "-o", "json", check=False, seconds=40)
        assert PASSWORD not in ran.out + ran.err
        answer: dict[str, Any] = json.loads(ran.out)
        return answer

    def results(told: dict[str, Any], hop: str) -> list[str]:
        return [found["result"] for found in told["findings"] if found["hop"] == hop]

    url = f"http://me:{PASSWORD}@{PROXY}"
    there = told("netcheck", raven.AGENTS, "--proxy", url)
    assert there["verdict"]["well"]
    assert (results(there, "proxy"), results(there, "tls")) == (["ok"], ["ok"])
    assert told("netcheck", raven.AGENTS, "--proxy", "off")["verdict"]["hop"] == "tcp"
    assert told("netcheck", raven.AGENTS, "--proxy", f"http://{PROXY}")["verdict"]["hop"] == "proxy"

    agent = office.agent("checked", "--proxy", url)
    agent.join(office.token(agent.name), "--proxy", url)
    with running(agent):
        office.gateway.wait_for(agent.name, lanes=("stream_lane",))
        doctor = ("--socket", str(agent.socket), "doctor", "--state-dir", str(agent.state))
        by_itself = told(*doctor)
        assert (results(by_itself, "proxy"), results(by_itself, "tunnel")) == (["unknown"], ["ok"])
        assert results(told(*doctor, "--proxy", url), "proxy") == ["ok"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"http://{PROXY}", "wants a user and a password (407)"),
        (f"http://me:wrong@{PROXY}", "does not take that user and password (401)"),
        (f"http://me:{PASSWORD}@{wires.CLOUD_ROUTER}:3129", "cannot connect: Connection refused"),
    ],
)
def test_what_a_proxy_refuses_is_said(office: Office, url: str, words: str) -> None:
    done = office.agent("refused").join(office.token("refused"), "--proxy", url, check=False)
    assert done.code == 1
    assert words in done.err
    assert f"the proxy {wires.CLOUD_ROUTER}:312" in done.err


def test_a_port_that_the_proxy_forbids_is_said(office: Office) -> None:
    url = f"http://me:{PASSWORD}@{PROXY}"
    other = f"{wires.CLOUD}:10299"
    agent = office.agent("forbidden")
    done = agent.join(office.token("forbidden"), "--proxy", url, gateway=other, check=False)
    assert f"does not let CONNECT to {other} pass (403)" in done.err


def test_through_a_balancer_that_chooses_by_server_name(office: Office) -> None:
    """A gateway behind nginx: agents dial the balancer, and the gateway knows whom it speaks for."""
    world, gateway = office.world, office.gateway
    gateway.stop()
    before = list(gateway.options)
    gateway.options += ["--agents-proxy-protocol", f"{wires.CLOUD_ROUTER}/32"]
    balancer = programs.nginx_balancer(world.internet, raven.AGENTS)
    gateway.agents, direct = BALANCER, gateway.agents
    gateway.start()
    try:
        gateway.ready()
        agent = office.agent("balanced")
        agent.join(office.token(agent.name), gateway=BALANCER)
        with running(agent):
            gateway.wait_for(agent.name, lanes=("stream_lane",))
            assert gateway.status_of(f"http://{agent.name}:8080/name", "-p") == (200, "site-a")
            address = gateway.nodes()[agent.name]["address"]
            assert address.rpartition(":")[0] == office.site.nat_address
            # Who dials past the balancer from its address has to speak its protocol.
            done = world.internet.run("curl", "-sSk", "-m", "5", f"https://{direct}/", check=False)
            assert done.code != 0
            wait_until(
                lambda: gateway.ctl_json("status", check=False)["refused"].get("proxy-header", 0) > 0,
                what="the refusal",
                seconds=10,
            )
    finally:
        gateway.stop()
        balancer.stop()
        gateway.agents, gateway.options = direct, before
        gateway.start()
        gateway.ready()
