"""A gateway with exactly the ServiceAccount of deploy/kubernetes: it does all it has to, and no more."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e_kube.account import NAME, NAMESPACE, install, write_kubeconfig
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.manifests import rendered
from tests.lab.process import Process
from tests.lab.waiting import wait_until

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}"
GROUPS = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
SITE = "rbac-cloud"
SECONDS = 60  # for what a controller does, on a busy machine

REFUSED = [
    "get secrets -n kube-system",  # only with bootstrap-tokens/
    "list secrets -n kube-system",
    "get secrets -n default",
    "list secrets",
    "patch nodes",
    "patch gateways.raven.openyurt.io",
    "delete gateways.raven.openyurt.io",
    "create certificatesigningrequests.certificates.k8s.io",
    "approve signers.certificates.k8s.io/kubernetes.io/kube-apiserver-client",
    "sign signers.certificates.k8s.io/kubernetes.io/kube-apiserver-client",
    "list configmaps -n kube-system",
    "list configmaps -n kube-public",
    "patch configmaps/cluster-info -n kube-public",
    "list configmaps",
    "update secrets -n raven-system",
    "deletecollection secrets -n raven-system",
    "get configmaps/extension-apiserver-authentication -n kube-system",
    "patch configmaps/raven-cfg -n kube-system",
    "patch services -n default",
    "delete leases.coordination.k8s.io/raven-gateway -n kube-system",
    "patch leases.coordination.k8s.io/kube-scheduler -n kube-system",
    "create pods --subresource exec -n raven-system",
    "get nodes --subresource proxy",
    "create serviceaccounts --subresource token -n kube-system",
    "impersonate users",
]
PERMITTED = [  # what the walk below does not come by
    "list blockaffinities.crd.projectcalico.org",
    "watch blockaffinities.crd.projectcalico.org",
    "patch certificatesigningrequests.certificates.k8s.io --subresource approval",
    "patch certificatesigningrequests.certificates.k8s.io --subresource status",
    "approve signers.certificates.k8s.io/raven.openyurt.io/agent",
    "sign signers.certificates.k8s.io/raven.openyurt.io/agent",
    "get events -n default",
    "patch events -n default",
    "delete configmaps -n raven-system",
    "delete secrets -n raven-system",
]


def _can(cluster: Cluster, question: str) -> str:
    """`yes` or `no`. By a review, since `kubectl auth can-i` denies what the API server does not serve."""
    verb, what, *options = question.split()
    where = dict(zip(options[::2], options[1::2], strict=True))
    resource, _, name = what.partition("/")
    plural, _, group = resource.partition(".")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": plural,
        "subresource": where.get("--subresource", ""),
        "name": name,
        "namespace": where.get("-n", ""),
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "groups": GROUPS, "resourceAttributes": attributes},
    }
    asked = cluster.server.kubectl("create", "-f", "-", "-o", "json", text=json.dumps(review))
    return "yes" if json.loads(asked.out)["status"]["allowed"] else "no"


@pytest.fixture(scope="module")
def account(cluster: Cluster) -> Iterator[Path]:
    """A kubeconfig of the account, which the base has made."""
    install(cluster)
    kubeconfig = cluster.world.cloud.directory / "account.kubeconfig"
    write_kubeconfig(cluster, cluster.server, kubeconfig)
    yield kubeconfig
    kubeconfig.unlink()


@pytest.fixture
def gateway(cluster: Cluster, account: Path) -> Iterator[Process]:
    directory = cluster.world.cloud.directory / "rbac"
    running = cluster.world.cloud.start(
        *("raven-gateway", "run", "--no-packets", "--state-dir", str(directory), "--name", "rbac"),
        *("--socket", f"{directory}.sock", "--metrics-listen", "off", "--advertise", "127.0.0.1:11262"),
        *("--agents-listen", "127.0.0.1:11262", "--oam-listen", "127.0.0.1:11264"),
        *("--names-listen", "*:11263"),
        *("--kubernetes-enabled", "--kubernetes-kubeconfig", str(account)),
        *("--kubernetes-service", "raven-gateway-agents", "--kubernetes-registry", "cluster"),
        name="raven-gateway@rbac",
    )
    yield running
    running.stop()


def _there(cluster: Cluster, *what: str) -> bool:
    return bool(cluster.server.kubectl("get", *what, "-o", "name", check=False).out.strip())


def test_a_gateway_does_its_work_with_it(cluster: Cluster, gateway: Process) -> None:
    server, node = cluster.server, cluster.nodes["a"].name
    server.kubectl("label", "node", node, f"raven.openyurt.io/gateway={SITE}", "--overwrite")
    config = {"enable-l7-proxy": "true", "enable-l3-tunnel": "true"}
    meta = {"name": "raven-cfg", "namespace": "kube-system"}
    server.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": config})
    site = {
        "apiVersion": "raven.openyurt.io/v1beta1",
        "kind": "Gateway",
        "metadata": {"name": SITE},
        "spec": {
            "exposeType": "LoadBalancer",
            "endpoints": [{"nodeName": node, "type": "proxy"}],
            "proxyConfig": {"Replicas": 1},
        },
    }
    slices = (
        "endpointslices",
        "-n",
        "kube-system",
        "-l",
        "endpointslice.kubernetes.io/managed-by=raven.openyurt.io",
    )
    internal = ("service", "x-raven-proxy-internal-svc", "-n", "kube-system")
    exposing = ("services", "-n", "kube-system", "-l", f"raven.openyurt.io/gateway={SITE}")
    try:
        server.apply(site)
        for what, arguments in {
            "the Lease": ("lease", NAME, "-n", "kube-system"),
            "the cluster info": ("configmap", "raven-cluster-info", "-n", "kube-public"),
            "the hosts file": ("configmap", "edge-tunnel-nodes", "-n", "kube-system"),
            "the internal Service": internal,
            "the exposing Service": exposing,
            "their slices": slices,
        }.items():
            wait_until(lambda arguments=arguments: _there(cluster, *arguments), what=what, seconds=SECONDS)  # type: ignore[misc]
        assert _there(cluster, "secret", "raven-ca", "-n", NAMESPACE)
        active = server.json("get", "gateways.raven.openyurt.io", SITE)["status"]["activeEndpoints"]
        assert [one["nodeName"] for one in active] == [node]
        selector = f"involvedObject.name={SITE}"
        wait_until(
            lambda: _there(cluster, "events", "-n", "default", "--field-selector", selector),
            what="an Event",
            seconds=SECONDS,
        )
    finally:
        server.kubectl("delete", "gateways.raven.openyurt.io", SITE)
        wait_until(
            lambda: not any(_there(cluster, *one) for one in (internal, exposing, slices)),
            what="Services and slices to go with the Gateway",
            seconds=SECONDS,
        )
        server.kubectl("delete", "configmap", "raven-cfg", "-n", "kube-system")
        server.kubectl("label", "node", node, "raven.openyurt.io/gateway-")
    assert "forbidden" not in gateway.text()


@pytest.mark.parametrize("question", PERMITTED)
def test_it_may(cluster: Cluster, account: Path, question: str) -> None:
    assert _can(cluster, question) == "yes"


@pytest.mark.parametrize("question", REFUSED)
def test_it_may_not(cluster: Cluster, account: Path, question: str) -> None:
    assert _can(cluster, question) == "no"


def test_bootstrap_tokens_are_an_addition(cluster: Cluster, account: Path) -> None:
    manifests = rendered("bootstrap-tokens")
    cluster.server.kubectl("apply", "-f", "-", text=manifests)
    try:
        assert _can(cluster, "get secrets/bootstrap-token-abcdef -n kube-system") == "yes"
        assert _can(cluster, "list secrets -n kube-system") == "no"
        assert _can(cluster, "get secrets/bootstrap-token-abcdef -n default") == "no"
    finally:
        cluster.server.kubectl("delete", "-f", "-", text=manifests)
