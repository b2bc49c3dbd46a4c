"""Logs yes, exec no: the gateway's policy by verbs, where it ends TLS in front of the kubelets."""

from collections.abc import Iterator

import pytest

from tests.e2e_kube import ways
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.raven import Raven
from tests.lab.waiting import wait_until

LOGS_ONLY = """
[[permit]]
who = ["cert:kube-apiserver-kubelet-client"]
targets = ["node:10250"]
verbs = ["logs", "stats"]
"""


@pytest.fixture(scope="module")
def server(cluster: Cluster, raven_up: Raven) -> Iterator[ApiServer]:
    """An API server whose only way ends at the gateway, under a policy that permits logs and stats."""
    policy = ways.policy_file(cluster)
    made = ways.terminating(cluster)
    try:
        policy.write_text(LOGS_ONLY)
        refused = ("exec", "ticker-site-a", "--", "true")
        wait_until(lambda: made.kubectl(*refused, check=False).code, what="the new policy", seconds=30)
        yield made
    finally:
        policy.write_text(ways.POLICY)
        allowed = ("exec", "ticker-site-a", "--", "true")
        wait_until(lambda: not made.kubectl(*allowed, check=False).code, what="the old policy", seconds=30)
        made.stop()


def test_logs_and_stats_pass(server: ApiServer) -> None:
    assert server.kubectl("logs", "--tail=1", "ticker-site-b").out.startswith("tick ")
    assert "site-a" in server.kubectl("get", "--raw", "/api/v1/nodes/site-a/proxy/stats/summary").out


@pytest.mark.parametrize(
    ("command", "verb"),
    [
        (("exec", "ticker-site-a", "--", "true"), "exec"),
        (("attach", "ticker-site-a"), "attach"),
        (("get", "--raw", "/api/v1/nodes/site-a/proxy/metrics"), "metrics"),
        (("get", "--raw", "/api/v1/nodes/site-a/proxy/configz"), "other"),
    ],
)
def test_the_rest_is_refused_in_the_gateways_words(
    server: ApiServer, command: tuple[str, ...], verb: str
) -> None:
    refused = server.kubectl(*command, check=False)
    assert refused.code != 0
    said = f"does not permit {verb} at site-a:10250 to cert:kube-apiserver-kubelet-client"
    assert said in refused.out + refused.err, refused


def test_without_a_certificate_nobody_gets_in(cluster: Cluster, server: ApiServer) -> None:
    curl = ("curl", "-sS", "-m", "5", "--cacert", str(cluster.pki / "ca.crt"))
    there = ("--resolve", f"site-a:10250:{ways.KUBELETS.partition(':')[0]}", "https://site-a:10250/pods")
    nobody = cluster.world.cloud.run(*curl, *there, check=False)
    assert nobody.code != 0
    assert not nobody.out
    shown = ("--cert", str(cluster.pki / "scheduler.crt"), "--key", str(cluster.pki / "scheduler.key"))
    somebody = cluster.world.cloud.run(*curl, *shown, *there)
    said = "does not permit pods at site-a:10250 to cert:system:kube-scheduler"
    assert said in somebody.out, somebody
