"""One cluster for the whole run, and one Raven on it: a gateway in the cloud, an agent at every site."""

from collections.abc import Iterator

import pytest

from tests.e2e_kube import binaries, ways
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.raven import Raven, up

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


@pytest.fixture(scope="session", params=ways.WAYS)
def way(request: pytest.FixtureRequest, cluster: Cluster, raven_up: Raven) -> Iterator[ApiServer]:
    """An API server that reaches the kubelets through Raven; a test with it runs once for each way."""
    server = ways.WAYS[request.param](cluster)
    yield server
    server.stop()
