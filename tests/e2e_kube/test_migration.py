"""What OpenYurt's controllers leave in a cluster; the commands of the page to migrate by remove it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e_kube.cluster import Cluster
from tests.lab.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "migrate-from-openyurt.md"
INTERNAL, PUBLIC = "x-raven-proxy-internal-svc", "x-raven-proxy-svc-cloud-5d41402a"
AGENT, GATEWAY = "192.0.2.1", "192.0.2.2"  # of OpenYurt, which is stopped, and ours
OURS = "raven.openyurt.io"
SECONDS = 60  # for a controller of Kubernetes, on a busy machine


@pytest.fixture
def left(cluster: Cluster) -> Iterator[None]:
    """Services without a selector, with Endpoints of theirs and slices of ours."""
    labels = {"raven.openyurt.io/gateway": "cloud", "raven.openyurt.io/gateway-type": "proxy"}
    objects: list[dict[str, Any]] = []
    for name, marks in ((INTERNAL, {"app": "raven"}), (PUBLIC, labels)):
        meta = {"name": name, "namespace": "kube-system", "labels": marks}
        port = {"port": 10263, "protocol": "TCP", "name": "https"}
        objects += (
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": {"ports": [{**port, "targetPort": 10263}]},
            },
            {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {**meta, "labels": labels if name == PUBLIC else {}},
                "subsets": [{"addresses": [{"ip": AGENT}], "ports": [port]}],
            },
            _slice(cluster, name, port),
        )
    cluster.server.apply(*objects)
    yield
    kinds = "services,endpoints,endpointslices"
    for name in (INTERNAL, PUBLIC):
        cluster.server.kubectl("delete", "-n", "kube-system", "--ignore-not-found", kinds, name)


def _slice(cluster: Cluster, service: str, port: dict[str, Any]) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": OURS}
    version = "v1" if cluster.binaries.minor >= 21 else "v1beta1"
    return {
        "apiVersion": f"discovery.k8s.io/{version}",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": "kube-system", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [GATEWAY]}],
        "ports": [port],
    }


def _leads_to(cluster: Cluster, service: str) -> set[str]:
    """Where kube-proxy leads who asks at the Service: all slices of its name together."""
    get = ("get", "endpointslices", "-n", "kube-system", "-l", f"kubernetes.io/service-name={service}")
    return {
        address
        for one in cluster.server.json(*get)["items"]
        for endpoint in one["endpoints"] or []
        for address in endpoint["addresses"]
    }


def _type(cluster: Cluster, word: str) -> None:
    """The commands of the page that delete this kind, as an operator types them."""
    lines = re.findall(rf"^ +kubectl (-n kube-system delete {word} .*)$", PAGE.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        cluster.server.kubectl(*shlex.split(line))


def _wait_for(cluster: Cluster, *addresses: str) -> None:
    """Until both Services lead to these and no others."""
    wait_until(
        lambda: all(_leads_to(cluster, service) == {*addresses} for service in (INTERNAL, PUBLIC)),
        what=f"Services that lead to {addresses}",
        seconds=SECONDS,
    )


def test_nothing_leads_to_the_old_agents(cluster: Cluster, left: None) -> None:
    _wait_for(cluster, AGENT, GATEWAY)
    _type(cluster, "endpoints")
    _wait_for(cluster, GATEWAY)


def test_nothing_leads_to_the_gateways_on_the_way_back(cluster: Cluster, left: None) -> None:
    _wait_for(cluster, AGENT, GATEWAY)
    _type(cluster, "endpointslices")
    _wait_for(cluster, AGENT)
