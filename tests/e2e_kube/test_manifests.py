"""deploy/kubernetes before a real API server: everything in it is admitted, by the server's own schemas."""

import shutil

import pytest
import yaml

from tests.e2e_kube import pods
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.manifests import MANIFESTS, RULES, SERVICE_MONITORS, installable, rendered
from tests.lab.machine import Result
from tests.lab.waiting import wait_until

SECONDS = 90  # for pods to start and be counted, on a busy machine


def _dry_run(cluster: Cluster, manifests: str) -> Result:
    """Without any option, as an operator types it: kubectl checks what it knows, and the server all of it."""
    return cluster.server.kubectl("apply", "--dry-run=server", "-f", "-", text=manifests, check=False)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> None:
    """A dry run makes no namespace, and objects in it need one."""
    cluster.server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "raven-system"}})


@pytest.mark.parametrize("overlay", ["base", "streams-only", "crds"])
def test_the_server_admits_all_of_it(cluster: Cluster, namespace: None, overlay: str) -> None:
    _admitted(cluster, yaml.safe_dump_all(installable(cluster, overlay)), crds_only=overlay == "crds")


def test_older_servers_have_an_overlay(cluster: Cluster, namespace: None) -> None:
    manifests = rendered("kubernetes-1.20")
    assert manifests == rendered("base", older=True)
    if cluster.binaries.minor >= 25:
        refused = _dry_run(cluster, manifests)  # newer servers have no policy/v1beta1: the overlay is needed
        assert refused.code != 0
        assert "PodDisruptionBudget" in refused.err
    else:
        _admitted(cluster, manifests)


def test_a_newer_kubectl_takes_the_overlay_for_its_server(cluster: Cluster, namespace: None) -> None:
    """As an operator has it, who renders the kustomization with the kubectl that applies it."""
    program = shutil.which("kubectl")
    overlay = MANIFESTS / ("base" if cluster.binaries.minor >= RULES else "kubernetes-1.20")
    rendered(overlay.name)  # skips where there is none, or an old one
    assert program is not None
    config = ("--kubeconfig", str(cluster.server.kubeconfig))
    apply = ("apply", "--dry-run=server", "-k", str(overlay))
    admitted = cluster.world.cloud.run(program, *config, *apply, seconds=60, check=False)
    assert admitted.code == 0, admitted.err


def _admitted(cluster: Cluster, manifests: str, *, crds_only: bool = False) -> None:
    admitted = _dry_run(cluster, manifests)
    assert admitted.code == 0, admitted.err
    kinds = {line.partition("/")[0] for line in admitted.out.splitlines()}
    wanted = {"customresourcedefinition.apiextensions.k8s.io"}
    if not crds_only:
        roles = {f"{kind}.rbac.authorization.k8s.io" for kind in ("role", "rolebinding", "clusterrole")}
        wanted |= {"daemonset.apps", "service", "configmap", "serviceaccount"} | roles
    assert wanted <= kinds


def test_the_server_admits_the_service_monitor(cluster: Cluster, namespace: None) -> None:
    cluster.server.kubectl("apply", "-f", "-", text=SERVICE_MONITORS)
    cluster.server.kubectl("wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com")
    admitted = _dry_run(cluster, rendered("monitoring"))
    assert admitted.code == 0, admitted.err


def test_all_gateways_but_one_may_be_evicted(cluster: Cluster, namespace: None) -> None:
    """By the disruption controller's own count, with pods that stand for gateways."""
    objects = {one["kind"]: one for one in installable(cluster)}
    daemonset, budget = objects["DaemonSet"], objects["PodDisruptionBudget"]
    one = pods.pod("gateway", "", "sleep 3600")["spec"]
    del one["nodeName"]
    daemonset["spec"]["template"]["spec"] = one
    try:
        cluster.server.apply(daemonset, budget)
        get = ("get", "poddisruptionbudget", "raven-gateway", "-n", "raven-system")

        def counted() -> bool:
            status = cluster.server.json(*get).get("status", {})
            ready = status.get("currentHealthy", 0)
            return bool(ready == len(cluster.nodes) > 1 and status["disruptionsAllowed"] == ready - 1)

        wait_until(counted, what="a budget that permits evictions", seconds=SECONDS)
    finally:
        delete = ("delete", "--ignore-not-found", "-n", "raven-system", "daemonset,poddisruptionbudget")
        cluster.server.kubectl(*delete, "raven-gateway")


def test_a_typing_error_is_not_admitted(cluster: Cluster, namespace: None) -> None:
    """The proof that the dry run looks at anything."""
    manifests = yaml.safe_dump_all(installable(cluster))
    refused = _dry_run(cluster, manifests.replace("hostNetwork: true", "hostNetwork: [maybe]"))
    assert refused.code != 0
    assert "hostNetwork" in refused.err
