"""exec by WebSocket, which upgrades a connection otherwise than kubectl's SPDY does."""

import pytest

from tests.e2e_kube.client import STDOUT, Client
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer


@pytest.mark.parametrize("node", ["site-a", "site-b"])
def test_exec_over_a_websocket(cluster: Cluster, way: ApiServer, node: str) -> None:
    client = Client(way, cluster.pki)
    script = "read line; echo $line from $NODE_NAME; exit 3"
    assert client.exec(f"ticker-{node}", "sh", "-c", script, text="hello\n") == (3, f"hello from {node}\n")


def test_both_ends_talk_as_long_as_they_like(cluster: Cluster, way: ApiServer) -> None:
    with Client(way, cluster.pki).open_exec("ticker-site-a", "cat") as cat:
        for number in range(100):
            cat.send(f"line {number}\n".encode())
            said = b""
            while not said.endswith(b"\n"):
                message = cat.receive()
                assert message is not None
                assert message[0] == STDOUT
                said += message[1]
            assert said == f"line {number}\n".encode()
