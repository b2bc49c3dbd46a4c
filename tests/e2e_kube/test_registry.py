"""Two gateways that share one registry in a real API server, with the ServiceAccount of deploy/kubernetes.

    raven-gateway site-a ─┐                                    ┌─ agents edge-1, edge-2, ... at site-a
    raven-gateway site-b ─┴─ cloud ── internet ── nat-a, nat-b ┴─ and site-b
           └ kube-apiserver of their own, which may be stopped; etcd is the cluster's

The gateways have the names of the cluster's nodes, and a Gateway says at which ports of the cloud they are
dialled. Nobody can dial an agent; O&M asks its node's kubelet, which answers 401 to who shows nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e_kube.account import NAMESPACE, install, write_kubeconfig
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.lab import raven, wires
from tests.lab.machine import Machine, Result
from tests.lab.raven import Agent
from tests.lab.waiting import wait_until

SITE = "registry-cloud"
ROLE = ("role", "raven-gateway", "-n", NAMESPACE)


class Gateway(raven.Daemon):
    """A gateway of the cloud with ports and a name of its own."""

    program = "raven-gateway"

    def __init__(self, machine: Machine, kubeconfig: Path, *, name: str, port: int) -> None:
        self.agents = f"{wires.CLOUD}:{port}"
        self.oam = f"127.0.0.1:{port + 2}"
        self.port = port
        options = (
            *("--agents-listen", f"0.0.0.0:{port}", "--advertise", self.agents, "--oam-listen", self.oam),
            *("--name", name, "--no-packets", "--kubernetes-enabled", "--kubernetes-registry", "cluster"),
            *("--kubernetes-kubeconfig", str(kubeconfig)),
        )
        super().__init__(machine, name=f"shared-{name}", options=options)

    def up(self) -> Gateway:
        self.start().ready(self.port, seconds=30)
        return self

    def command_of(self, *words: str, check: bool = True) -> Result:
        """A `raven-gateway` command beside it, as `kubectl exec` runs it."""
        return self.machine.run(self.program, *words, "--state-dir", str(self.state), check=check, seconds=60)

    def token(self, *words: str) -> str:
        return self.command_of("token", "create", *words).out.strip()

    def reaches(self, node: str) -> bool:
        """Whether the kubelet of `node` answers through this gateway."""
        options = ("-sS", "-k", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}")
        asked = ("curl", *options, "-x", f"http://{self.oam}", f"https://{node}:10250/pods")
        return self.machine.run(*asked, check=False).out == "401"

    def connected(self, node: str) -> bool:
        told = self.ctl_json("nodes", check=False)
        return any(one["name"] == node and one["stream_lane"] == "up" for one in told)

    def problems(self) -> list[str]:
        problems: list[str] = self.ctl_json("status", check=False)["problems"]
        return problems


@dataclass
class Shared:
    """The gateways, running, and the API server they use."""

    cluster: Cluster
    server: ApiServer
    gateways: tuple[Gateway, Gateway]
    made: int = 0

    def agent(self, letter: str = "a") -> Agent:
        """One more agent at a site, not joined; the kubelet of its node is what it allows."""
        self.made += 1
        machine = self.cluster.world.sites[letter].machine
        allowed = ("--no-packets", "--node-address", wires.SITE, "--allow", "node:10250")
        return Agent(machine, name=f"edge-{self.made}", options=allowed)

    def joined(self, at: Gateway) -> Agent:
        """One that has joined at that gateway, runs, and has a tunnel to each."""
        agent = self.agent()
        agent.join(at.token(), gateway=at.agents)
        agent.start()
        self.wait_for(agent)
        return agent

    def wait_for(self, agent: Agent) -> None:
        for gateway in self.gateways:
            wait_until(
                lambda gateway=gateway: gateway.connected(agent.name),  # type: ignore[misc]
                what=f"{agent.name} at {gateway.name}",
                seconds=60,
            )


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Shared]:
    install(cluster)
    server = cluster.control_plane.api_server()
    cloud = cluster.world.cloud
    kubeconfig = cloud.directory / "registry.kubeconfig"
    write_kubeconfig(cluster, server, kubeconfig)
    nodes = [node.name for node in cluster.nodes.values()]
    a, b = (
        Gateway(cloud, kubeconfig, name=name, port=port)
        for name, port in zip(nodes, (13262, 14262), strict=True)
    )
    meta = {"name": "raven-cfg", "namespace": "kube-system"}
    cluster.server.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"enable-l7-proxy": "true"}},
        {
            "apiVersion": "raven.openyurt.io/v1beta1",
            "kind": "Gateway",
            "metadata": {"name": SITE},
            "spec": {
                "exposeType": "PublicIP",
                "proxyConfig": {"Replicas": 2},
                "endpoints": [
                    {"nodeName": name, "type": "proxy", "publicIP": wires.CLOUD, "publicPort": one.port}
                    for name, one in zip(nodes, (a, b), strict=True)
                ],
            },
        },
    )
    for name in nodes:
        cluster.server.kubectl("label", "node", name, f"raven.openyurt.io/gateway={SITE}", "--overwrite")
    a.start()  # both are first
    b.start()
    for one in (a, b):
        assert one.process is not None
        one.process.ready(one.port, seconds=30)
    running = Shared(cluster, server, (a, b))
    yield running
    for one in (a, b):
        one.stop()
    cluster.server.kubectl("delete", "gateways.raven.openyurt.io", SITE)
    cluster.server.kubectl("delete", "configmap", "raven-cfg", "-n", "kube-system")
    for name in nodes:
        cluster.server.kubectl("label", "node", name, "raven.openyurt.io/gateway-")
    server.stop()


def test_who_joins_at_one_is_served_by_both_and_one_is_enough(shared: Shared) -> None:
    a, b = shared.gateways
    agent = shared.joined(b)
    assert a.reaches(agent.name)
    assert b.reaches(agent.name)
    assert a.process is not None
    a.process.kill()
    try:
        assert b.reaches(agent.name)
        assert not shared.agent().join(b.token(), gateway=b.agents, check=False).code
    finally:
        a.up()
    shared.wait_for(agent)
    assert a.reaches(agent.name)


def test_of_two_who_bring_one_token_one_joins(shared: Shared) -> None:
    token = shared.gateways[0].token()
    rivals = [(shared.agent(letter), at) for letter, at in zip("ab", shared.gateways, strict=True)]
    processes = [
        agent.machine.start(*agent.join_command(token, gateway=at.agents), name=f"join@{agent.name}")
        for agent, at in rivals
    ]
    assert sorted(process.wait(30) for process in processes) == [0, 1]
    assert sum("the token has been used" in process.text() for process in processes) == 1


def test_who_is_removed_at_one_is_cut_at_both(shared: Shared) -> None:
    a, b = shared.gateways
    agent = shared.joined(a)
    a.command_of("node", "remove", agent.name)
    for one in (a, b):
        wait_until(lambda one=one: not one.reaches(agent.name), what=f"{one.name} to cut it", seconds=5)  # type: ignore[misc]
    time.sleep(2)  # it dials again, and is turned away
    assert not any(one.reaches(agent.name) or one.connected(agent.name) for one in (a, b))
    agent.stop()


def test_access_that_is_taken_back_at_one_is_taken_at_both(shared: Shared) -> None:
    a, b = shared.gateways
    made = b.command_of("access", "token", "ci").out.strip()
    assert made
    (entry,) = json.loads(a.command_of("access", "list", "-o", "json").out)
    assert (entry["name"], entry["state"]) == ("token:ci", "good")
    a.command_of("access", "revoke", entry["id"])

    def state() -> str:
        told: str = json.loads(b.command_of("access", "list", "-o", "json").out)[0]["state"]
        return told

    wait_until(lambda: state() == "revoked", what="the other gateway to know", seconds=5)


def test_a_new_ca_is_taken_by_both_and_ends_no_tunnel(shared: Shared) -> None:
    a, b = shared.gateways
    agent = shared.joined(a)
    before = {one.name: one.ctl_json("nodes") for one in shared.gateways}
    first = (a.state / "ca.crt").read_text()
    b.command_of("ca", "rotate")
    assert "still trusted" in a.command_of("ca", "rotate", check=False).err

    def followed() -> bool:
        """The agent has the gateways' new CA first, and the one before behind it."""
        (newest, *others) = {(one.state / "ca.crt").read_text() for one in shared.gateways}
        return newest != first and not others and (agent.state / "ca.crt").read_text().startswith(newest)

    wait_until(followed, what="one new CA everywhere", seconds=30)
    b.command_of("ca", "retire")
    for one in shared.gateways:
        wait_until((lambda one=one: not (one.state / "previous").exists()), what="the end", seconds=10)  # type: ignore[misc]
        (told,) = [told for told in one.ctl_json("nodes") if told["name"] == agent.name]
        (earlier,) = [told for told in before[one.name] if told["name"] == agent.name]
        assert told["stream_lane"] == "up"
        assert told["address"] == earlier["address"]  # the same connection
        assert one.reaches(agent.name)
    assert not shared.agent().join(b.token(), gateway=a.agents, check=False).code
    agent.stop()


def test_who_is_stopped_between_token_and_node_goes_on_at_the_other(shared: Shared) -> None:
    """The token is spent and the node is not written: here because the right to write it was taken away."""
    a, b = shared.gateways
    admin = shared.cluster.server
    rules = admin.json("get", *ROLE)["rules"]
    token = a.token()
    agent, rival = shared.agent(), shared.agent("b")
    for rule in rules:
        if rule["resources"] == ["configmaps"]:
            kept = {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]}
            without = [kept if one is rule else one for one in rules]
    _set_rules(admin, without)
    try:
        refused = agent.join(token, gateway=a.agents, check=False)
        assert refused.code == 1
        assert "its log says why" in refused.err
        assert "does the role of this ServiceAccount have the verb" in a.log()
    finally:
        _set_rules(admin, rules)
    again = rival.join(token, gateway=b.agents, check=False)
    assert (again.code, "the token has been used" in again.err) == (1, True)
    assert not agent.join(token, gateway=b.agents, check=False).code
    agent.start()
    shared.wait_for(agent)
    agent.stop()


def _set_rules(server: ApiServer, rules: list[dict[str, Any]]) -> None:
    """Gives the role these rules, and waits for what they say about creating ConfigMaps to count."""
    server.kubectl("patch", *ROLE, "--type", "merge", "-p", json.dumps({"rules": rules}))
    may = any("create" in rule["verbs"] for rule in rules if rule["resources"] == ["configmaps"])
    who = f"system:serviceaccount:{NAMESPACE}:raven-gateway"
    asked = ("auth", "can-i", "create", "configmaps", "-n", NAMESPACE, "--as", who)
    wait_until(
        lambda: (server.kubectl(*asked, check=False).out.strip() == "yes") is may,
        what="the rules to count",
        seconds=20,
    )


def test_without_the_api_server_everybody_known_is_served(shared: Shared) -> None:
    a, b = shared.gateways
    agent = shared.joined(a)
    token = a.token()
    shared.server.process.kill()
    try:
        for one in shared.gateways:
            wait_until(
                lambda one=one: any("commands wait" in said for said in one.problems()),  # type: ignore[misc]
                what=f"{one.name} to say so",
                seconds=30,
            )
            assert one.reaches(agent.name)
        agent.stop()  # whoever starts anew, agent or gateway, is served by what is known
        b.stop()
        b.up()
        agent.start()
        shared.wait_for(agent)
        assert b.reaches(agent.name)
        late = shared.agent("b")
        refused = late.join(token, gateway=b.agents, check=False)
        assert (refused.code, "cannot be reached from this gateway now" in refused.err) == (1, True)
        assert "the registry in Kubernetes" in a.command_of("token", "create", check=False).err
    finally:
        shared.server.process.start()
    shared.server.process.ready(shared.server.port, seconds=120)
    wait_until(lambda: not late.join(token, gateway=b.agents, check=False).code, what="the join", seconds=60)
    late.start()
    shared.wait_for(late)
    late.stop()
    agent.stop()
