"""The names of OpenYurt Raven that users' manifests, scripts and DNS already rely on. See COMPAT."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from raven.kube.gateways import Endpoint
from raven.kube.resources import ConfigMap, Node

NAMESPACE = "kube-system"

GATEWAY_LABEL = "raven.openyurt.io/gateway"
TYPE_LABEL = "raven.openyurt.io/gateway-type"
ENDPOINT_LABEL = "raven.openyurt.io/endpoints-name"
EXTRA_CIDRS = "raven.openyurt.io/extra-allowed-source-cidrs"
DISCARD = {"svc.openyurt.io/discard": "true"}  # hides a Service from the edge

PROXY, TUNNEL = "proxy", "tunnel"
PUBLIC_IP, LOAD_BALANCER = "PublicIP", "LoadBalancer"
DEFAULT_PORTS = {PROXY: 10262, TUNNEL: 4500}
PROTOCOLS = {PROXY: "TCP", TUNNEL: "UDP"}
SECURE_PORT, INSECURE_PORT = 10263, 10264  # O&M by TLS server name, to kubelets; O&M by HTTP

LEADER_LEASE = "raven-gateway"  # ours, in the same namespace: who of the gateways acts for all
CONFIG = "raven-cfg"
ENABLE_PROXY, ENABLE_TUNNEL = "enable-l7-proxy", "enable-l3-tunnel"
NODES_CONFIG, NODES_KEY = "edge-tunnel-nodes", "tunnel-nodes"
INTERNAL_SERVICE = "x-raven-proxy-internal-svc"
SERVICE_PREFIXES = {PROXY: "x-raven-proxy-svc", TUNNEL: "x-raven-tunnel-svc"}

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "raven.openyurt.io"


class Lanes(NamedTuple):
    """What `raven-cfg` switches on; both are off where it is missing."""

    proxy: bool = False
    tunnel: bool = False

    def is_on(self, type: str) -> bool:
        return self.proxy if type == PROXY else self.tunnel


class Doors(NamedTuple):
    """The gateways' ports that stand for ports of the nodes; TLS says no port, so each has one of its own."""

    https: Mapping[int, int]  # a port of the nodes: ours
    http: int = 0  # for all ports of the nodes; 0 for none


def lanes(config: ConfigMap | None) -> Lanes:
    data: Mapping[str, str] = config.data if config is not None else {}
    return Lanes(
        proxy=data.get(ENABLE_PROXY, "").lower() == "true",
        tunnel=data.get(ENABLE_TUNNEL, "").lower() == "true",
    )


def port_of(endpoint: Endpoint) -> int:
    return endpoint.port or DEFAULT_PORTS.get(endpoint.type, 0)


def address_of(node: Node, *types: str) -> str:
    """The node's first numeric address of the types, in their order; "" where it has none."""
    for type in types:
        for one in node.status.addresses:
            if one.type == type:
                try:
                    return str(ipaddress.ip_address(one.address))
                except ValueError:
                    continue
    return ""
