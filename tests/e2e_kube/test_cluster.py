"""The cluster itself: what the other tests take for granted."""

import pytest

from tests.e2e_kube.cluster import Cluster
from tests.lab import wires


def test_both_nodes_are_ready_and_have_the_same_address(cluster: Cluster) -> None:
    nodes = cluster.server.json("get", "nodes")["items"]
    addresses = {
        node["metadata"]["name"]: [
            a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"
        ]
        for node in nodes
    }
    assert addresses == {"site-a": [wires.SITE], "site-b": [wires.SITE]}


@pytest.mark.parametrize("letter", ["a", "b"])
def test_the_cloud_cannot_dial_a_kubelet(cluster: Cluster, letter: str) -> None:
    site = cluster.world.sites[letter]
    for address in (wires.SITE, site.nat_address):
        direct = cluster.world.cloud.run("curl", "-sSk", "-m", "1", f"https://{address}:10250/", check=False)
        assert direct.code in (7, 28), direct


def test_without_a_way_kubectl_says_so(cluster: Cluster) -> None:
    answer = cluster.server.kubectl("logs", "ticker-site-a", check=False)
    assert answer.code != 0
    assert "lookup site-a" in answer.err, answer
