"""One cluster for the whole run, and one Raven on it: a gateway in the cloud, an agent at every site."""

import dataclasses
from collections.abc import Iterator

import pytest

from tests.e2e_kube import binaries, ways
from tests.e2e_kube import joining as joins
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.joining import Joining
from tests.e2e_kube.raven import Raven, up

WEBSOCKETS = (
    31  # the minor version from which kubectl and API servers speak WebSocket for exec and port-forward
)
TIMEOUT = (
    300  # seconds for a test, or for what it shares with others: API servers start slowly on a busy machine
)


def pytest_report_header() -> str:
    """On what the tests run: a result counts for that version and no other."""
    if reason := binaries.missing():
        return f"no Kubernetes: {reason}"
    return str(binaries.find())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e_kube" in item.path.parts:
            item.add_marker(pytest.mark.kube)
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if reason := binaries.missing():
        pytest.skip(reason)
    with Cluster() as running:
        yield running


@pytest.fixture(scope="session")
def raven_up(cluster: Cluster) -> Raven:
    """Whoever stops one of its daemons starts it again."""
    return up(cluster)


@pytest.fixture(scope="module")
def joining(cluster: Cluster) -> Iterator[Joining]:
    """A gateway that edges join by the API server."""
    with joins.joining(cluster) as up:
        yield up


@pytest.fixture(scope="session", params=ways.WAYS)
def way(request: pytest.FixtureRequest, cluster: Cluster, raven_up: Raven) -> Iterator[ApiServer]:
    """An API server that reaches the kubelets through Raven; a test with it runs once for each way."""
    server = ways.WAYS[request.param](cluster)
    yield server
    server.stop()


def _protocols() -> tuple[str, ...]:
    """What kubectl asks for: the first by itself, the other when it is told to."""
    if binaries.missing() or binaries.find().kubectl_minor < WEBSOCKETS:
        return ("spdy",)
    return ("websocket", "spdy")


@pytest.fixture(params=_protocols())
def streaming(request: pytest.FixtureRequest, way: ApiServer) -> ApiServer:
    """`way`, for a kubectl that asks for one protocol; an older API server makes it fall back to SPDY."""
    wanted = "true" if request.param == "websocket" else "false"
    names = ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS")
    return dataclasses.replace(way, settings=tuple(f"{name}={wanted}" for name in names))
