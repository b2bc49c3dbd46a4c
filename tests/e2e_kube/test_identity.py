"""Who asks, by each way: what the gateway's audit calls an API server."""

import json

import pytest

from tests.e2e_kube import ways
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.raven import Raven


@pytest.mark.parametrize(
    ("name", "asker"),
    [
        ("egress-tcp", "cert:kube-apiserver-kubelet-client at 127.0.0.1:"),
        ("egress-unix", "uid:0 at unix pid "),
        ("names", "anonymous at 198.18.0."),
        ("terminating", "cert:kube-apiserver-kubelet-client at 198.18.0."),
    ],
)
def test_the_audit_names_the_api_server(cluster: Cluster, raven_up: Raven, name: str, asker: str) -> None:
    server = ways.WAYS[name](cluster)
    try:
        told = len(raven_up.gateway.log())
        server.kubectl("exec", "ticker-site-b", "--", "true")
    finally:
        server.stop()  # with it end the connections that it keeps, and so their audit lines are written
    lines = [json.loads(line) for line in raven_up.gateway.log()[told:].splitlines() if "audit" in line]
    asked = [line for line in lines if line.get("node") == "site-b" and line["verdict"] == "allowed"]
    assert asked, lines
    assert any(line["asker"].startswith(asker) for line in asked), asked
