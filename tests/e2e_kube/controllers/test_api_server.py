"""The API server goes away, closes watches, has forgotten the past, takes rights back, or has a newer CRD."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.e2e_kube.controllers.objects import (
    CRD,
    GATEWAYS,
    NODES,
    SECONDS,
    TUNNELS,
    KubeGateway,
    Objects,
    tunnel,
)
from tests.lab.waiting import wait_until

RBAC = "/apis/rbac.authorization.k8s.io/v1"
BACK = 90.0  # seconds: pauses between tries grow to 30 and 60
_WATCHED = ("gateways", "nodes", "configmaps", "services", "endpointslices", "blockaffinities")


def _shop(objects: Objects) -> None:
    objects.node("e1", "shop", address="10.0.0.1")
    objects.node("e2", "shop", address="10.0.0.2")
    objects.site("shop", tunnel("e1"), tunnel("e2"), **TUNNELS)
    _active(objects, "e1")


def _active(objects: Objects, node: str, *, seconds: float = SECONDS) -> None:
    wait_until(
        lambda: objects.active("shop") == [(node, "tunnel")],
        what=f"{node} to be active, not {objects.active('shop')}",
        seconds=seconds,
    )


def test_changes_while_it_was_away_are_not_lost(objects: Objects, leader: KubeGateway) -> None:
    """Killed, as a machine that loses power; while it is down somebody else's server takes a write."""
    _shop(objects)
    beside = objects.control_plane.api_server()
    objects.kill_server()
    try:
        wait_until(
            lambda: any("out of reach" in one for one in leader.problems()),
            what="the status to say so",
            seconds=SECONDS,
        )
        moved = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
        api = objects.api_of("admin", server=beside)
        api.merge(f"{NODES}/e1/status", moved)
        api.close()
        time.sleep(5)  # each of those that watch finds out for itself
        said = leader.log().count("out of reach")
        time.sleep(10)
        assert leader.log().count("out of reach") - said < 10  # each kind of object once, not each try
    finally:
        objects.revive_server()
        beside.stop()
    _active(objects, "e2", seconds=BACK)
    wait_until(lambda: leader.problems() == [], what="no problem to be left", seconds=BACK)
    assert "the API server answers again" in leader.log()
    assert "Traceback" not in leader.log()


def test_a_past_that_is_forgotten_is_listed_anew(objects: Objects, leader: KubeGateway) -> None:
    """410 Gone: the API server was away, and etcd has been compacted beyond what the gateway knows."""
    _shop(objects)
    objects.kill_server()
    beside = objects.control_plane.api_server()
    try:
        api = objects.api_of("admin", server=beside)
        moved = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
        version = int(api.merge(f"{NODES}/e1/status", moved)["metadata"]["resourceVersion"])
        api.delete(f"{NODES}/e2")  # nobody will ever be told of that
        api.create(NODES, {"metadata": {"name": "filler"}})
        api.close()
        objects.compact(version + 1)
    finally:
        beside.stop()
        objects.revive_server()
    wait_until(lambda: objects.active("shop") == [], what="nobody to be active", seconds=BACK)
    told = objects.condition("shop", "Accepted")["message"]
    assert told == "endpoints name node e2, which the cluster does not have"
    wait_until(lambda: leader.problems() == [], what="no problem to be left", seconds=BACK)


def test_watches_that_are_closed_resume(objects: Objects, leader: KubeGateway) -> None:
    """Every connection to the API server is cut, again and again, while things change."""
    _shop(objects)
    for number in range(3):
        objects.cut_connections()
        objects.set_ready("e1", number % 2 == 1)
        objects.set_ready("e2", number % 2 == 0)
        _active(objects, "e2" if number % 2 == 0 else "e1", seconds=BACK)
    wait_until(lambda: leader.problems() == [], what="no problem to be left", seconds=BACK)


@pytest.fixture
def tenant(objects: Objects, leader: KubeGateway) -> Iterator[KubeGateway]:
    """A gateway of a user whose rights can be taken; the administrator's is stopped."""
    leader.stop()
    gateway = objects.gateway("tenant", kubeconfig=objects.kubeconfig("tenant"))
    rules = [
        {
            "apiGroups": ["*"],
            "resources": ["*"],
            "verbs": ["get", "list", "watch", "create", "patch", "delete"],
        }
    ]
    objects.api.create(f"{RBAC}/clusterroles", {"metadata": {"name": "tenant"}, "rules": rules})
    _grant(objects)
    gateway.start()
    wait_until(lambda: objects.holder() == "tenant", what="the tenant to lead", seconds=SECONDS)
    yield gateway
    gateway.stop()
    for what in ("clusterrolebindings", "clusterroles"):
        objects.api.delete(f"{RBAC}/{what}/tenant")


def _grant(objects: Objects) -> None:
    binding = {
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tenant"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}],
    }
    objects.api.create(f"{RBAC}/clusterrolebindings", binding)


def test_all_rights_taken_away_at_run_time(objects: Objects, tenant: KubeGateway) -> None:
    _shop(objects)
    objects.api.delete(f"{RBAC}/clusterrolebindings/tenant")
    objects.cut_connections()  # a watch that is open goes on without asking again
    wait_until(
        lambda: all(
            any(f"watch {one}: not allowed" in said for said in tenant.problems()) for one in _WATCHED
        ),
        what=f"a sentence for each kind, not {tenant.problems()}",
        seconds=SECONDS,
    )
    assert any("does the role of this ServiceAccount have the verb?" in one for one in tenant.problems())
    objects.set_ready("e1", False)
    wait_until(lambda: "no longer leading" in tenant.log(), what="it to give up leading", seconds=SECONDS)
    before = len(tenant.log().splitlines())
    cpu = tenant.cpu_seconds()
    time.sleep(15)
    assert len(tenant.log().splitlines()) - before < 20  # no hot loop
    assert tenant.cpu_seconds() - cpu < 3
    assert tenant.process is not None
    assert tenant.process.alive
    _grant(objects)
    _active(objects, "e2", seconds=BACK)
    wait_until(lambda: tenant.problems() == [], what="no problem to be left", seconds=BACK)
    assert "Traceback" not in tenant.log()


def test_one_verb_taken_away_at_run_time(objects: Objects, tenant: KubeGateway) -> None:
    """The rest of the work goes on."""
    _shop(objects)
    verbs = ["get", "list", "watch", "create", "delete"]
    others = {"apiGroups": ["*"], "resources": ["*"], "verbs": verbs}
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["patch"]}
    maps = {"apiGroups": [""], "resources": ["configmaps", "events"], "verbs": ["patch"]}
    objects.api.merge(f"{RBAC}/clusterroles/tenant", {"rules": [others, leases, maps]})
    objects.set_ready("e1", False)
    told = "site shop: patch gateways/status shop: not allowed"
    wait_until(lambda: any(told in one for one in tenant.problems()), what=told, seconds=SECONDS)
    objects.node("later", address="192.0.2.77")
    hosts = "/api/v1/namespaces/kube-system/configmaps/edge-tunnel-nodes"
    wait_until(
        lambda: "192.0.2.77\tlater" in objects.api.get(hosts)["data"]["tunnel-nodes"],
        what="the hosts file to go on",
        seconds=SECONDS,
    )
    assert objects.active("shop") == [("e1", "tunnel")]
    every = {**others, "verbs": [*verbs, "patch"]}
    objects.api.merge(f"{RBAC}/clusterroles/tenant", {"rules": [every]})
    _active(objects, "e2", seconds=BACK)
    wait_until(lambda: tenant.problems() == [], what="no problem to be left", seconds=BACK)


def test_a_crd_of_a_newer_version(objects: Objects, leader: KubeGateway) -> None:
    """v1beta2 is stored and has fields that this gateway does not know; v1beta1 is still served."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.raven.openyurt.io"
    ours = objects.api.get(path)["spec"]["versions"]
    of_today = next(one for one in ours if one["name"] == "v1beta1")
    newer = json.loads(json.dumps(of_today))
    newer["name"] = "v1beta2"
    for version in (newer, of_today):
        schema = version["schema"]["openAPIV3Schema"]["properties"]
        schema["spec"]["properties"]["tunnelConfig"]["properties"]["protocol"] = {"type": "string"}
        schema["spec"]["properties"]["endpoints"]["items"]["properties"]["mtu"] = {"type": "integer"}
        schema["status"]["properties"]["ofTomorrow"] = {"type": "string"}
    rest = [{**one, "storage": False} for one in ours if one["name"] != "v1beta1"]
    objects.api.merge(path, {"spec": {"versions": [{**of_today, "storage": False}, newer, *rest]}})
    tomorrow = GATEWAYS.replace("v1beta1", "v1beta2")
    try:
        wait_until(lambda: objects.api.get(tomorrow), what="the newer version", seconds=SECONDS)
        objects.node("e1", "shop")
        spec = {"tunnelConfig": {"Replicas": 1, "protocol": "quic"}, "endpoints": [tunnel("e1", mtu=1300)]}
        kind = {"apiVersion": "raven.openyurt.io/v1beta2", "kind": "Gateway"}
        objects.api.create(tomorrow, {**kind, "metadata": {"name": "shop"}, "spec": spec})
        _active(objects, "e1")
        objects.api.merge(f"{tomorrow}/shop/status", {"status": {"ofTomorrow": "x"}})
        objects.api.merge(f"{tomorrow}/shop", {"spec": {"endpoints": [tunnel("e1", mtu=1300, port=4501)]}})
        wait_until(
            lambda: objects.status("shop")["observedGeneration"] == 2, what="the change", seconds=SECONDS
        )
        kept = objects.api.get(f"{tomorrow}/shop")
        assert kept["status"]["ofTomorrow"] == "x"
        assert kept["spec"]["tunnelConfig"]["protocol"] == "quic"
        assert kept["spec"]["endpoints"][0]["mtu"] == 1300
    finally:
        objects.api.delete(f"{GATEWAYS}/shop")
        objects.api.merge(path, {"spec": {"versions": [{**newer, "storage": False, "served": False}, *ours]}})
        status = objects.api.get(path)["status"]
        assert "v1beta2" in status["storedVersions"]
        objects.api.merge(f"{path}/status", {"status": {"storedVersions": ["v1beta1"]}})
        objects.server.kubectl("apply", "--validate=false", "-f", str(CRD))


def test_a_crd_that_is_taken_away_and_comes_back(objects: Objects, leader: KubeGateway) -> None:
    _shop(objects)
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.raven.openyurt.io"
    objects.api.delete(path)
    wait_until(lambda: objects.api.get(path) is None, what="the CRD to go", seconds=SECONDS)
    wait_until(
        lambda: any("list gateways" in one or "watch gateways" in one for one in leader.problems()),
        what="the status to say so",
        seconds=BACK,
    )
    objects.install()
    objects.site("shop", tunnel("e2"), **TUNNELS)
    _active(objects, "e2", seconds=BACK)
    wait_until(lambda: leader.problems() == [], what="no problem to be left", seconds=BACK)
