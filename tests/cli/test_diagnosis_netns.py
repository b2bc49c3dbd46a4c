"""`ravenctl doctor` and `netcheck` between namespaces: names, routers, UDP and MTU as they go wrong for real.

    edge ───────── router ───────── cloud
    agent          drops, shrinks   gateway

One gateway and one agent serve all scenarios but for the last ones, which need no daemon.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.diagnosis.hosts import CLOUD6, Hosts, hosts, no_such_name
from tests.lab import wires
from tests.lab.machine import Machine
from tests.lab.raven import AGENTS, Agent, Gateway
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns


class Told(NamedTuple):
    """What `-o json` said."""

    code: int
    verdict: dict[str, Any]
    findings: list[dict[str, Any]]

    def of(self, hop: str, result: str = "") -> list[dict[str, Any]]:
        return [f for f in self.findings if f["hop"] == hop and f["result"] == (result or f["result"])]


def ravenctl(machine: Machine, *arguments: str) -> Told:
    ran = machine.run("ravenctl", *arguments, "-o", "json", check=False, seconds=40)
    assert ran.err == "", ran.err
    told = json.loads(ran.out)
    return Told(ran.code, told["verdict"], told["findings"])


class Lab(NamedTuple):
    hosts: Hosts
    gateway: Gateway
    agent: Agent

    def doctor(self, of: Gateway | Agent, *arguments: str) -> Told:
        where = ("--socket", str(of.socket), "doctor", "--state-dir", str(of.state))
        return ravenctl(of.machine, *where, *arguments)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with hosts(tmp_path_factory.mktemp("rvd")) as made:
        gateway = Gateway(
            made.cloud, name="gateway", options=["--pod-cidr", "10.42.0.0/24", "--pod-range", "10.42.0.0/16"]
        )
        gateway.start()
        gateway.ready()
        agent = Agent(made.edge, name="shop-1", options=["--pod-cidr", "10.42.1.0/24"])
        agent.join(gateway.token("--node", "shop-1"))
        yield Lab(made, gateway, agent)


def test_netcheck_before_anything_is_installed(lab: Lab) -> None:
    told = ravenctl(lab.hosts.edge, "netcheck", AGENTS)
    assert (told.code, told.verdict["well"]) == (0, True)
    pin = lab.gateway.token().rpartition(".")[2]
    assert f"CA pin {pin}" in told.of("tls")[0]["said"]
    assert told.of("tcp", "ok")
    assert told.of("proxy")[0]["said"] == "no proxy variables are set"
    assert told.of("nat", "ok")
    (udp,) = told.of("udp")
    assert udp["result"] == "unknown"
    assert "WireGuard does not answer strangers" in udp["said"]
    assert told.verdict["unknown"] == 1
    assert "packets of 1500 bytes" in told.of("mtu")[0]["said"]


def test_netcheck_on_a_udp_port_where_nobody_listens(lab: Lab) -> None:
    told = ravenctl(lab.hosts.edge, "netcheck", AGENTS, "--wg-port", "4444")
    (udp,) = told.of("udp")
    assert (udp["result"], told.code) == ("note", 0), "streams do without UDP"
    assert udp["said"].startswith("refused")
    assert "--wg-listen" in udp["next"]


@contextlib.contextmanager
def narrow(*links: tuple[Machine, str]) -> Iterator[None]:
    """1400 bytes is all that passes these links meanwhile."""
    for machine, link in links:
        wires.ip([f"link set {link} mtu 1400"], namespace=machine.namespace)
    try:
        yield
    finally:
        for machine, link in links:
            wires.ip([f"link set {link} mtu 1500"], namespace=machine.namespace)
            machine.run("ip", "route", "flush", "cache")


def test_netcheck_on_a_narrow_path(lab: Lab) -> None:
    """The router says that its way out takes 1400 bytes."""
    with narrow((lab.hosts.router, "wan"), (lab.hosts.cloud, "eth0")):
        told = ravenctl(lab.hosts.edge, "netcheck", AGENTS)
    lab.hosts.edge.run("ip", "route", "flush", "cache")
    (mtu,) = told.of("mtu")
    assert "packets of 1400 bytes, 1340 inside WireGuard" in mtu["said"]
    assert "mtu 1340" in mtu["next"]
    assert told.code == 0


def test_netcheck_on_a_path_that_swallows_large_packets(lab: Lab) -> None:
    """The gateway's certificate does not arrive, and nobody tells the gateway why."""
    with narrow((lab.hosts.router, "wan")):
        told = ravenctl(lab.hosts.edge, "netcheck", AGENTS)
    lab.hosts.edge.run("ip", "route", "flush", "cache")
    assert (told.code, told.verdict["hop"]) == (1, "tls")
    assert "drops full-sized packets" in told.verdict["next"]


def test_netcheck_behind_a_firewall_that_drops(lab: Lab) -> None:
    rules = "table inet rvd { chain f { type filter hook forward priority 0; tcp dport 10262 drop; }; }"
    lab.hosts.router.run("nft", "-f", "-", text=rules)
    try:
        told = ravenctl(lab.hosts.edge, "netcheck", AGENTS)
    finally:
        lab.hosts.router.run("nft", "flush", "ruleset")
    assert (told.code, told.verdict["hop"], told.verdict["why"]) == (1, "tcp", "no answer within 5 s")
    assert f"let TCP out to {wires.CLOUD} port 10262" in told.verdict["next"]


def test_netcheck_where_ipv6_leads_nowhere(lab: Lab) -> None:
    told = ravenctl(lab.hosts.edge, "netcheck", f"[{CLOUD6}]:10262")
    assert (told.code, told.verdict["hop"]) == (1, "tcp")
    assert "ip route get fd00:51::10" in told.verdict["next"]


def test_both_ends_while_packets_pass(lab: Lab) -> None:
    lab.agent.start()
    lab.gateway.wait_for("shop-1")
    here, there = lab.doctor(lab.agent), lab.doctor(lab.gateway)
    assert (here.code, there.code) == (0, 0), (here, there)
    for hop in ("tun", "rights", "device", "udp", "mtu", "packets", "tunnel"):
        assert here.of(hop, "ok"), (hop, here.findings)
    for hop in ("rights", "device", "udp", "packets", "node"):
        assert there.of(hop, "ok"), (hop, there.findings)
    assert "last handshake" in here.of("udp")[0]["said"]
    assert lab.agent.stop() == 0


def test_a_network_that_drops_udp(lab: Lab) -> None:
    """Packets go through the tunnel, so nothing is broken; what the network does not let through is said."""
    lab.hosts.drop_udp()
    try:
        lab.agent.start()
        lab.gateway.wait_for("shop-1", lanes=["stream_lane"])
        wait_until(
            lambda: "through the tunnel" in lab.agent.ctl("status", check=False).out,
            what="the agent to give up on UDP",
            seconds=60,
        )
        lab.gateway.wait_for("shop-1")
        here = lab.doctor(lab.agent)
    finally:
        lab.hosts.router.run("nft", "flush", "ruleset")
        lab.agent.stop()
    assert here.code == 0, here
    (udp,) = here.of("udp", "note")
    assert "packets go through the tunnel" in udp["said"]
    assert "let UDP out" in udp["next"]
    assert f"no UDP passes to {wires.CLOUD}:4500" in here.of("packets", "note")[0]["said"]


def test_no_right_to_make_devices(lab: Lab) -> None:
    """The agent without CAP_NET_ADMIN serves streams, and doctor says what it lacks."""
    machine, agent = lab.hosts.edge, lab.agent
    process = machine.start(
        *("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *agent.command()),
        name="agent-bare",
    )
    try:
        lab.gateway.wait_for("shop-1", lanes=["stream_lane"])
        here = lab.doctor(agent)
    finally:
        process.stop()
    assert (here.code, here.verdict["hop"]) == (1, "rights"), here
    assert "CAP_NET_ADMIN" in here.verdict["why"]


def test_a_name_that_is_not_there(lab: Lab) -> None:
    lab.hosts.resolver("127.0.0.1")
    with no_such_name(lab.hosts.edge):
        told = lab.doctor(lab.agent, "--gateway", "gateway.exmaple.com:443")
    assert (told.code, told.verdict["hop"]) == (1, "name"), told
    assert told.verdict["about"] == "gateway.exmaple.com:443"
    assert "getent hosts gateway.exmaple.com" in told.verdict["next"]


def test_a_name_server_that_does_not_answer(lab: Lab) -> None:
    lab.hosts.resolver("127.0.0.1")
    told = ravenctl(lab.hosts.edge, "netcheck", "gateway.example.com:443")
    assert (told.code, told.verdict["hop"]) == (1, "name")
    assert "/etc/resolv.conf" in told.verdict["next"]
