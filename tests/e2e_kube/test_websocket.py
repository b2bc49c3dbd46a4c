"""exec by WebSocket, which upgrades a connection otherwise than SPDY: by a client of ours, and by kubectl."""

import pytest

from tests.e2e_kube.client import STDOUT, Client
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.conftest import WEBSOCKETS
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


def test_kubectl_speaks_what_it_is_told(cluster: Cluster, streaming: ApiServer) -> None:
    """So `streaming` tries both protocols, where there are two."""
    asked = streaming.settings[0].endswith("=true")
    said = streaming.kubectl("-v=9", "exec", "ticker-site-a", "--", "true").err
    websocket = asked and cluster.binaries.minor >= WEBSOCKETS
    assert ("Upgrade: websocket" in said, "Upgrade: SPDY/3.1" in said) == (websocket, not websocket)
