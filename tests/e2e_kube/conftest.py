"""One cluster for the whole run, and one Raven on it: a gateway in the cloud, an agent at every site."""

import dataclasses
from collections.abc import Iterator

import pytest

from tests.e2e_kube import binaries
from tests.e2e_kube.cluster import Cluster
from tests.lab import raven, wires
from tests.lab.raven import Agent, Gateway

TIMEOUT = (
    300  # seconds for a test, or for what it shares with others: API servers start slowly on a busy machine
)


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


@dataclasses.dataclass(frozen=True, slots=True)
class Raven:
    """The daemons, connected; whoever stops one starts it again."""

    gateway: Gateway
    agents: dict[str, Agent]  # by the site's letter


@pytest.fixture(scope="session")
def raven_up(cluster: Cluster) -> Raven:
    """Streams only: what packets do needs no Kubernetes to be tried."""
    gateway = raven.gateway(cluster.world, "--no-packets")
    gateway.start()
    gateway.ready()
    agents = {}
    for letter, site in cluster.world.sites.items():
        options = ("--no-packets", "--node-address", wires.SITE, "--allow", "node:10250")
        agents[letter] = raven.agent(site, *options)
        agents[letter].join(gateway.token("--node", site.name))
        agents[letter].start()
    gateway.wait_for(*(agent.name for agent in agents.values()), lanes=["stream_lane"])
    return Raven(gateway, agents)
