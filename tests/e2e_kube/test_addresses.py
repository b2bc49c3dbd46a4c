"""An API server that dials nodes by address: of one node it is found, of two it is refused in clear words.

One that asks by name needs no address for it, but newer ones look one up before `nodes/NAME/proxy`.
"""

from collections.abc import Iterator

import pytest

from tests.e2e_kube import ways
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.raven import Raven
from tests.lab import wires
from tests.lab.waiting import wait_until


@pytest.fixture(scope="module")
def by_address(cluster: Cluster, raven_up: Raven) -> Iterator[ApiServer]:
    server = ways.egress_unix(cluster, address_types="InternalIP")
    yield server
    server.stop()


def test_an_address_of_two_nodes_is_refused_and_the_gateway_says_why(
    by_address: ApiServer, raven_up: Raven
) -> None:
    refused = by_address.kubectl("logs", "ticker-site-a", check=False)
    assert refused.code != 0
    assert "502" in refused.err, refused
    said = lambda: "2 nodes have the address 192.168.1.10" in raven_up.gateway.log()  # noqa: E731
    wait_until(said, what="the gateway's word for it", seconds=10)


def test_it_stays_refused_while_one_of_them_is_away(by_address: ApiServer, raven_up: Raven) -> None:
    assert raven_up.agents["b"].stop() == 0
    try:
        assert by_address.kubectl("logs", "ticker-site-a", check=False).code != 0
    finally:
        raven_up.agents["b"].start()
        raven_up.gateway.wait_for("site-b", lanes=["stream_lane"])


def test_an_address_of_one_node_is_its_name(by_address: ApiServer, raven_up: Raven) -> None:
    agent = raven_up.agents["b"]
    usual = list(agent.options)
    assert agent.stop() == 0
    try:
        agent.options = ["192.168.77.7" if word == wires.SITE else word for word in usual]
        agent.start()
        raven_up.gateway.wait_for("site-b", lanes=["stream_lane"])
        assert by_address.kubectl("exec", "ticker-site-a", "--", "cat", "/www/name").out == "site-a\n"
    finally:
        agent.stop()
        agent.options = usual
        agent.start()
        raven_up.gateway.wait_for("site-b", lanes=["stream_lane"])


def test_a_name_without_an_address_serves_the_streams(cluster: Cluster, raven_up: Raven) -> None:
    server = ways.egress_unix(cluster)
    try:
        proxied = ("get", "--raw", "/api/v1/nodes/site-a/proxy/healthz")
        assert server.kubectl(*proxied).out == "ok"
        server.name_hosts({})
        assert server.kubectl("exec", "ticker-site-a", "--", "cat", "/www/name").out == "site-a\n"
        if cluster.binaries.minor >= 25:

            def looked_up() -> bool:
                return "lookup site-a" in server.kubectl(*proxied, check=False).err

            wait_until(looked_up, what="the API server to look at its hosts file again", seconds=30)
    finally:
        server.stop()
