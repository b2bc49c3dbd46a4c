"""Raven on the test cluster: a gateway in the cloud with all its ways, an agent at every site."""

import dataclasses

from tests.e2e_kube import ways
from tests.e2e_kube.cluster import Cluster
from tests.lab import raven, wires
from tests.lab.raven import Agent, Gateway


@dataclasses.dataclass(frozen=True, slots=True)
class Raven:
    """The daemons, connected."""

    gateway: Gateway
    agents: dict[str, Agent]  # by the site's letter


def up(cluster: Cluster, *options: str) -> Raven:
    """Starts all of it and returns when the sites are connected; `options` are the gateway's.

    Streams only: what packets do needs no Kubernetes to be tried.
    """
    gateway = raven.gateway(cluster.world, "--no-packets", *ways.options(cluster), *options)
    gateway.start()
    gateway.ready()
    agents = {}
    for letter, site in cluster.world.sites.items():
        allowed = ("--no-packets", "--node-address", wires.SITE, "--allow", "node:10250")
        agents[letter] = raven.agent(site, *allowed)
        agents[letter].join(gateway.token("--node", site.name))
        agents[letter].start()
    gateway.wait_for(*(agent.name for agent in agents.values()), lanes=["stream_lane"])
    return Raven(gateway, agents)
