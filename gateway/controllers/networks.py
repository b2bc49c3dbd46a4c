"""What the tunnels need of Gateways: which node carries which pod networks, and where gateways are dialled.

Plain functions of the Gateways' status, which the leader writes and every gateway reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from raven.config import Address
from raven.errors import PeerError
from raven.kube.conventions import LOAD_BALANCER, PROXY, PUBLIC_IP, TUNNEL, port_of
from raven.kube.gateways import Gateway
from raven.topology.model import IPNetwork, parse_pod_networks_untrusted

Carried = dict[str, tuple[IPNetwork, ...]]  # by node


def carried(gateways: Iterable[Gateway]) -> Carried:
    """The pod networks that each node of a site takes into the tunnel; nodes of no site are not in it.

    The active tunnel endpoint carries those of the whole site, since the others reach remote networks
    through it; with none, nobody carries any.
    """
    found: Carried = {}
    for gateway in sorted(gateways, key=lambda one: one.metadata.name):
        active = next((one for one in gateway.status.active_endpoints if one.type == TUNNEL), None)
        networks = _joined(tuple(network for node in gateway.status.nodes for network in node.subnets))
        for node in gateway.status.nodes:
            mine = active is not None and node.node_name == active.node_name
            found.setdefault(node.node_name, networks if mine else ())
    return found


@lru_cache(maxsize=1 << 13)  # sites: a change of one has all looked at, and joining ten networks takes 0.3 ms
def _joined(texts: tuple[str, ...]) -> tuple[IPNetwork, ...]:
    """The fewest networks that are the same addresses: neighbours make one, since each costs a route."""
    networks: list[IPNetwork] = []
    for text in texts:
        with contextlib.suppress(PeerError):  # the leader's conditions tell
            networks += parse_pod_networks_untrusted([text])
    v4 = [one for one in networks if isinstance(one, IPv4Network)]
    v6 = [one for one in networks if isinstance(one, IPv6Network)]
    return (*collapse_addresses(v4), *collapse_addresses(v6))


def dialled(gateways: Iterable[Gateway]) -> dict[str, str]:
    """Where agents dial each gateway, HOST:PORT by node: the active proxy endpoints that have an address."""
    return {
        endpoint.node_name: str(Address(endpoint.public_ip, endpoint.public_port or port_of(endpoint)))
        for gateway in sorted(gateways, key=lambda one: one.metadata.name)
        if gateway.spec.expose_type in (PUBLIC_IP, LOAD_BALANCER)
        for endpoint in gateway.status.active_endpoints
        if endpoint.type == PROXY and endpoint.public_ip
    }


def packets_at(gateways: Iterable[Gateway], node: str) -> str:
    """The address at which the edge reaches the packet lane of the gateway on `node`; "" for none.

    Active or not: a gateway that is not carries its own packets, and what a site sends to it.
    """
    for gateway in sorted(gateways, key=lambda one: one.metadata.name):
        if gateway.spec.expose_type in (PUBLIC_IP, LOAD_BALANCER):
            for endpoint in (*gateway.status.active_endpoints, *gateway.spec.endpoints):
                if (endpoint.node_name, endpoint.type) == (node, TUNNEL) and endpoint.public_ip:
                    return endpoint.public_ip
    return ""


def moved(before: Carried, after: Carried) -> list[str]:
    """The nodes that carry something else now, those first that carry less: who gives up a network
    before another takes it leaves no moment in which both claim it.
    """
    changed = [node for node in before.keys() | after.keys() if before.get(node) != after.get(node)]
    return sorted(changed, key=lambda node: (not set(before.get(node, ())) - set(after.get(node, ())), node))
