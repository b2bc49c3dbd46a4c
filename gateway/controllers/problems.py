"""What is wrong with a Gateway's specification, in sentences.

API servers from 1.23 refuse most of this themselves, by the rules in the CRD; older ones take it, and objects
from before an upgrade are there anyway. Nothing here stops a site: what can be used still is.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from raven.kube.conventions import (
    LOAD_BALANCER,
    PROXY,
    PUBLIC_IP,
    TUNNEL,
    port_of,
)
from raven.kube.gateways import Endpoint, Gateway, ProxyConfig, TunnelConfig


class Claim(NamedTuple):
    """One public address and port, which one endpoint in the cluster can have."""

    type: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address} port {self.port} ({self.type})"


def claim(endpoint: Endpoint) -> Claim | None:
    if not endpoint.public_ip:
        return None
    return Claim(endpoint.type, endpoint.public_ip, endpoint.public_port or port_of(endpoint))


def claims(gateways: Iterable[Gateway]) -> dict[Claim, str]:
    """Which Gateway each public port belongs to: the oldest that names it, so none in use is taken."""
    held: dict[Claim, str] = {}
    for gateway in sorted(gateways, key=_age):
        for endpoint in gateway.spec.endpoints:
            if (wanted := claim(endpoint)) is not None:
                held.setdefault(wanted, gateway.metadata.name)
    return held


def _age(gateway: Gateway) -> tuple[str, str]:
    return gateway.metadata.creation_timestamp or "", gateway.metadata.name


def spec_problems(gateway: Gateway) -> list[str]:
    """What the specification alone shows."""
    spec, found = gateway.spec, []
    exposed = spec.expose_type in (PUBLIC_IP, LOAD_BALANCER)
    if spec.expose_type and not exposed:
        found.append(f'exposeType {spec.expose_type!r}: expected PublicIP, LoadBalancer or ""')
    if spec.tunnel_config.replicas not in (0, 1):
        found.append(f"tunnelConfig.Replicas {spec.tunnel_config.replicas}: expected 0 or 1")
    if spec.endpoints and (spec.proxy_config, spec.tunnel_config) == (ProxyConfig(), TunnelConfig()):
        # To be active by itself was v1alpha1's meaning; whoever writes v1beta1 may mean 0.
        found.append(
            "neither proxyConfig nor tunnelConfig has Replicas, so no endpoint is active;"
            " what was written as v1alpha1 wants tunnelConfig.Replicas 1"
        )
    proxies = sum(one.type == PROXY for one in spec.endpoints)
    if spec.proxy_config.replicas > max(1, proxies):
        found.append(f"proxyConfig.Replicas {spec.proxy_config.replicas}: only {proxies} endpoints are there")
    for field, text in (
        ("proxyHTTPPort", spec.proxy_config.proxy_http_port),
        ("proxyHTTPSPort", spec.proxy_config.proxy_https_port),
    ):
        found += [
            f"proxyConfig.{field}: {one!r} is no port" for one in split_ports(text) if parse_port(one) is None
        ]
    for (node, type), count in Counter((one.node_name, one.type) for one in spec.endpoints).items():
        if count > 1:
            found.append(f"node {node} has {count} endpoints of type {type}; the first one counts")
    for number, one in enumerate(spec.endpoints):
        found += [f"endpoints[{number}].{problem}" for problem in _endpoint_problems(one, exposed=exposed)]
    return found


def _endpoint_problems(endpoint: Endpoint, *, exposed: bool) -> Iterable[str]:
    if not endpoint.node_name:
        yield "nodeName: expected the name of a node"
    if endpoint.type not in (PROXY, TUNNEL):
        yield f"type {endpoint.type!r}: expected proxy or tunnel"
    if not 0 <= endpoint.port < 1 << 16:
        yield f"port {endpoint.port}: expected 1 to 65535"
    if not 0 <= endpoint.public_port < 1 << 16:
        yield f"publicPort {endpoint.public_port}: expected 1 to 65535"
    if endpoint.public_ip and not _is_address(endpoint.public_ip):
        yield f"publicIP {endpoint.public_ip!r}: expected an IP address"
    if exposed and endpoint.under_nat:
        yield "underNAT: nobody can dial an endpoint behind a NAT, so an exposed Gateway has none"


def is_usable(endpoint: Endpoint) -> bool:
    """Whether it may be elected, whatever else is wrong with its Gateway."""
    return bool(endpoint.node_name) and not any(_endpoint_problems(endpoint, exposed=False))


def taken(gateway: Gateway, held: Mapping[Claim, str]) -> dict[tuple[str, str], str]:
    """The endpoints, by node and type, whose public port belongs to another Gateway; a sentence each."""
    found = {}
    for one in gateway.spec.endpoints:
        wanted = claim(one)
        if wanted is not None and (owner := held.get(wanted)) not in (None, gateway.metadata.name):
            found[one.node_name, one.type] = (
                f"{wanted} of node {one.node_name} belongs to Gateway {owner}, which is older"
            )
    return found


def split_ports(text: str) -> list[str]:
    """The items of a comma list, trimmed."""
    return [item for item in map(str.strip, text.split(",")) if item]


def parse_port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16 else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
