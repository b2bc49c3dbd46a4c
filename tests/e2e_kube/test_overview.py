"""`ravenctl --kubeconfig` on a real API server: who leads, which sites there are, and what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e_kube.account import write_kubeconfig
from tests.e2e_kube.joining import SECONDS, Joining
from tests.lab.machine import Result
from tests.lab.waiting import wait_until

SITE, GHOST = "overview-site", "overview-ghost"


def ask(joining: Joining, *words: str, kubeconfig: str = "") -> Result:
    server = joining.cluster.server
    command = ("ravenctl", "--kubeconfig", kubeconfig or str(server.kubeconfig), *words)
    return server.machine.run(*command, seconds=30, check=False)


def status(joining: Joining) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(joining, "status", "-o", "json").out)
    return found


def site(joining: Joining, name: str) -> dict[str, Any]:
    return next((one for one in status(joining)["sites"] if one["name"] == name), {})


@pytest.fixture(scope="module")
def sites(joining: Joining) -> Iterator[str]:
    """A site with node site-a, and a Gateway that names a node which is not there; the node's name."""
    server, node = joining.cluster.server, joining.cluster.nodes["a"].name
    switches = {"enable-l7-proxy": "true", "enable-l3-tunnel": "true"}
    meta = {"name": "raven-cfg", "namespace": "kube-system"}
    server.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": switches})
    server.kubectl("label", "node", node, f"raven.openyurt.io/gateway={SITE}", "--overwrite")
    for name, member in ((SITE, node), (GHOST, "ghost")):
        server.apply(
            {
                "apiVersion": "raven.openyurt.io/v1beta1",
                "kind": "Gateway",
                "metadata": {"name": name},
                "spec": {
                    "endpoints": [{"nodeName": member, "type": "proxy", "underNAT": True}],
                    "proxyConfig": {"Replicas": 1},
                },
            }
        )
    try:
        yield node
    finally:
        for name in (SITE, GHOST):
            server.kubectl("delete", "gateways.raven.openyurt.io", name)
        server.kubectl("label", "node", node, "raven.openyurt.io/gateway-")
        server.kubectl("delete", "configmap", "raven-cfg", "-n", "kube-system")


def test_a_site_comes_up_and_goes_down_before_its_eyes(joining: Joining, sites: str) -> None:
    wait_until(  # whether or not the node has joined in another test
        lambda: site(joining, SITE).get("lane", {}).get("state") == "down",
        what="the site without an agent",
        seconds=SECONDS,
    )
    joined = joining.join("a", "overview", "--kubeconfig", str(joining.kubelet("a")))
    assert joined.code == 0, joined.err
    machine = joining.machine("a")
    agent = machine.start(
        *("raven-agent", "run", "--no-packets", "--state-dir", str(joining.state("a", "overview"))),
        *("--socket", str(machine.directory / "overview.sock"), "--metrics-listen", "off"),
        name="raven-agent@overview",
    )
    try:
        wait_until(
            lambda: site(joining, SITE)["lane"]["state"] == "up", what="the site's tunnel", seconds=SECONDS
        )
        found = status(joining)
        (leader,) = (one for one in found["gateways"] if one["leads"])
        assert leader["name"] == "joining"
        assert leader["evidence_age_s"] < 15
        assert leader["leads_for_s"] >= leader["evidence_age_s"]
        up = site(joining, SITE)
        assert up["active"] == [{"node": sites, "type": "proxy", "address": ""}]
        (node,) = up["nodes"]
        assert (node["name"], node["ready"], node["active"]) == (sites, True, ["proxy"])
        assert node["subnets"] == [joining.cluster.nodes["a"].pod_cidr]
        assert up["lane"]["evidence_age_s"] < 15
    finally:
        agent.stop()
    wait_until(
        lambda: site(joining, SITE)["lane"]["state"] == "down", what="the site to be down", seconds=SECONDS
    )
    assert site(joining, SITE)["lane"]["detail"] == f"no tunnel to node {sites}"


def test_what_people_read(joining: Joining, sites: str) -> None:
    wait_until(lambda: bool(site(joining, GHOST)["problems"]), what="the ghost's verdict", seconds=SECONDS)
    shown = ask(joining)
    assert shown.code == 1, shown
    assert f"site {GHOST}: endpoints name node ghost, which the cluster does not have\n" in shown.out
    assert "joining  for " in shown.out
    nodes = ask(joining, "nodes")
    assert nodes.code == 0, nodes
    assert [line.split()[:4] for line in nodes.out.splitlines()[1:]] == [[sites, SITE, "ready", "for"]]


def test_the_gateways_own_account_sees_it_too(joining: Joining, sites: str, tmp_path: Path) -> None:
    """As in `kubectl exec daemonset/raven-gateway -- ravenctl --kubeconfig auto`."""
    account = tmp_path / "kubeconfig"
    write_kubeconfig(joining.cluster, joining.cluster.server, account)
    found = json.loads(ask(joining, "status", "-o", "json", kubeconfig=str(account)).out)
    assert {SITE, GHOST} <= {one["name"] for one in found["sites"]}
    assert found["notes"] == ["pods may not be read, so whether gateways are ready is not known"]


def test_nobody_answers(joining: Joining, sites: str) -> None:
    assert ask(joining, "status", kubeconfig="/nowhere").code == 2
    strangers = joining.kubelet("b")  # a kubelet may not list Gateways
    refused = ask(joining, "status", kubeconfig=str(strangers))
    assert (refused.code, "list gateways: not allowed" in refused.err) == (2, True), refused
