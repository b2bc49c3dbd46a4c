"""What is no Gateway: API servers that know rules in a CRD refuse it; elsewhere the controller says the same.

The controller has to say it on new servers too, of objects that were there before the rules.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.manifests import RULES, remove_rules
from tests.lab.machine import Result
from tests.lab.process import Process
from tests.lab.waiting import wait_until

CRD = Path(__file__).parents[2] / "deploy/kubernetes/crds/gateways.yaml"
RULES_APPLIED = 25  # the minor version from which they are applied unless somebody switches them off
RATCHETING = 30  # from here on, an object that breaks a new rule may change as long as that field does not
SECONDS = 60  # for what a controller does, on a busy machine

TUNNEL = {"nodeName": "n", "type": "tunnel"}
PROXY = {"nodeName": "n", "type": "proxy"}
# name: (specification, what the API server says by a rule, what the controller says)
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "behind-nat": (
        {"exposeType": "PublicIP", "endpoints": [{**TUNNEL, "underNAT": True}]},
        "nobody can dial an endpoint behind a NAT",
        "endpoints[0].underNAT: nobody can dial an endpoint behind a NAT",
    ),
    "twice": (
        {"endpoints": [TUNNEL, {**TUNNEL, "port": 4501}]},
        "a node has at most one endpoint of a type",
        "node n has 2 endpoints of type tunnel",
    ),
    "too-many-replicas": (
        {"endpoints": [PROXY], "proxyConfig": {"Replicas": 2}},
        "fewer endpoints of type proxy than proxyConfig.Replicas",
        "proxyConfig.Replicas 2: only 1 endpoints are there",
    ),
    "no-address": (
        {"endpoints": [{**TUNNEL, "publicIP": "gateway.example.com"}]},
        "publicIP of an endpoint is an IP address",
        "endpoints[0].publicIP 'gateway.example.com': expected an IP address",
    ),
    "no-ipv4": (
        {"endpoints": [{**TUNNEL, "publicIP": "192.0.2.256"}]},
        "publicIP of an endpoint is an IP address",
        "endpoints[0].publicIP '192.0.2.256': expected an IP address",
    ),
    "no-http-port": (
        {"proxyConfig": {"proxyHTTPPort": "10255, 70000"}},
        "proxyHTTPPort holds ports",
        "proxyConfig.proxyHTTPPort: '70000' is no port",
    ),
    "no-https-port": (
        {"proxyConfig": {"proxyHTTPSPort": "0"}},
        "proxyHTTPSPort holds ports",
        "proxyConfig.proxyHTTPSPort: '0' is no port",
    ),
}
# Kubernetes 1.20 takes an empty string for null, and refuses it.
EMPTY = {"exposeType": "", "endpoints": [{**TUNNEL, "publicIP": ""}], "proxyConfig": {"proxyHTTPSPort": ""}}
GOOD: dict[str, dict[str, Any]] = {
    "empty": {},
    "edge": {"endpoints": [{**TUNNEL, "underNAT": True}, {**PROXY, "underNAT": True}]},
    "exposed": {
        "exposeType": "PublicIP",
        "endpoints": [{**TUNNEL, "publicIP": "192.0.2.1"}, {**PROXY, "publicIP": "2001:db8::1"}],
        "proxyConfig": {"Replicas": 1, "proxyHTTPPort": " 10255 , 9445"},
        "tunnelConfig": {"Replicas": 1},
    },
    "by-its-nodes-address": {"exposeType": "PublicIP", "endpoints": [TUNNEL]},
    "one-proxy-later": {"proxyConfig": {"Replicas": 1}},
}


def site(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": f"validation-{name}"}
    return {
        "apiVersion": "raven.openyurt.io/v1beta1",
        "kind": "Gateway",
        "metadata": metadata,
        "spec": spec,
    }


def install(cluster: Cluster, *, rules: bool) -> None:
    """The CRD, with its rules where the server knows such a thing."""
    crd = yaml.safe_load(CRD.read_text())
    if not rules or cluster.binaries.minor < RULES:
        remove_rules(crd)
    cluster.server.apply(crd)
    cluster.server.kubectl("wait", "--for=condition=Established", "crd/gateways.raven.openyurt.io")


def _create(cluster: Cluster, obj: dict[str, Any], *options: str) -> Result:
    return cluster.server.kubectl("create", *options, "-f", "-", text=json.dumps(obj), check=False)


def _refused(cluster: Cluster, obj: dict[str, Any]) -> str:
    """Why the server refuses it; "" where it does not."""
    tried = _create(cluster, obj, "--dry-run=server")
    return tried.err if tried.code else ""


@pytest.fixture(scope="module")
def rules(cluster: Cluster) -> bool:
    """Whether the API server applies the CRD's rules; they are there when it does."""
    install(cluster, rules=True)
    if cluster.binaries.minor < RULES_APPLIED:
        return False
    # The new schema takes a moment to be that of the requests.
    bad = site("twice", BAD["twice"][0])
    wait_until(lambda: _refused(cluster, bad), what="the CRD's rules", seconds=SECONDS)
    return True


@pytest.mark.parametrize("name", BAD)
def test_the_server_refuses_it_where_it_has_rules(cluster: Cluster, rules: bool, name: str) -> None:
    spec, said, _ = BAD[name]
    refused = _refused(cluster, site(name, spec))
    assert said in refused if rules else not refused


@pytest.mark.parametrize("name", GOOD)
def test_the_server_admits(cluster: Cluster, rules: bool, name: str) -> None:
    assert _refused(cluster, site(name, GOOD[name])) == ""


def _v1alpha1(spec: dict[str, Any]) -> dict[str, Any]:
    return {**site("older", spec), "apiVersion": "raven.openyurt.io/v1alpha1"}


def test_the_older_version_takes_no_endpoint_without_a_node(cluster: Cluster, rules: bool) -> None:
    """As v1beta1, which is what is stored, it could not be read."""
    assert _refused(cluster, _v1alpha1({"endpoints": [{"nodeName": "n", "publicIP": "192.0.2.1"}]})) == ""
    assert "nodeName" in _refused(cluster, _v1alpha1({"endpoints": [{"publicIP": "192.0.2.1"}]}))


def test_the_older_version_has_the_rules(cluster: Cluster, rules: bool) -> None:
    spec, said, _ = BAD["twice"]
    refused = _refused(cluster, _v1alpha1(spec))
    assert said in refused if rules else not refused


def test_empty_means_missing(cluster: Cluster, rules: bool) -> None:
    refused = _refused(cluster, site("empty-strings", EMPTY))
    assert not refused or cluster.binaries.minor == 20


@pytest.fixture
def gateways(cluster: Cluster) -> Iterator[None]:
    """Good Gateways and bad ones, from before the CRD had rules; it has them now."""
    install(cluster, rules=False)
    wait_until(
        lambda: not _refused(cluster, site("twice", BAD["twice"][0])),
        what="a CRD without rules",
        seconds=SECONDS,
    )
    objects = [site(name, spec) for name, spec in (*GOOD.items(), *((n, bad[0]) for n, bad in BAD.items()))]
    try:
        cluster.server.apply(*objects)
        # In between, an old object that breaks a rule cannot even be told so in its status.
        install(cluster, rules=not RULES_APPLIED <= cluster.binaries.minor < RATCHETING)
        yield
    finally:
        names = [one["metadata"]["name"] for one in objects]
        cluster.server.kubectl("delete", "--ignore-not-found", "gateways.raven.openyurt.io", *names)
        install(cluster, rules=True)


@pytest.fixture
def controller(cluster: Cluster, gateways: None) -> Iterator[Process]:
    """A gateway that writes the status of Gateways."""
    directory = cluster.world.cloud.directory / "validation"
    running = cluster.world.cloud.start(
        *("raven-gateway", "run", "--no-packets", "--state-dir", str(directory), "--name", "validation"),
        *("--socket", f"{directory}.sock", "--metrics-listen", "off", "--advertise", "127.0.0.1:11362"),
        *("--agents-listen", "127.0.0.1:11362", "--oam-listen", "127.0.0.1:11364"),
        *("--kubernetes-enabled", "--kubernetes-kubeconfig", str(cluster.server.kubeconfig)),
        name="raven-gateway@validation",
    )
    yield running
    running.stop()


def test_the_controller_says_it_of_what_is_there(cluster: Cluster, controller: Process) -> None:
    def accepted() -> dict[str, tuple[str, str]]:
        """Of each Gateway, whether it is accepted, and what else is said."""
        found = {}
        for one in cluster.server.json("get", "gateways.raven.openyurt.io")["items"]:
            for condition in one.get("status", {}).get("conditions", []):
                if condition["type"] == "Accepted":
                    name = one["metadata"]["name"].removeprefix("validation-")
                    found[name] = condition["status"], condition.get("message", "")
        return found

    wait_until(lambda: accepted().keys() >= BAD.keys() | GOOD.keys(), what="conditions", seconds=SECONDS)
    told = accepted()
    for name, (_, _, said) in BAD.items():
        assert told[name][0] == "False"
        assert said in told[name][1]
    for name in ("empty", "one-proxy-later"):  # the others name nodes that are not there
        assert told[name] == ("True", "")
