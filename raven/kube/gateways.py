"""Raven's own custom resource, as OpenYurt spells it: a Gateway is one site, with its ways in and out."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from raven.kube.objects import Condition, Kind, Meta, Part


class Endpoint(Part, frozen=True):
    """One way in or out of a site; the same shape in spec and status."""

    node_name: str
    type: str = ""  # proxy or tunnel; v1alpha1 has none
    port: int = 0  # 0: the default of its type
    under_nat: bool = msgspec.field(default=False, name="underNAT")
    nat_type: str = msgspec.field(default="", name="natType")
    public_ip: str = msgspec.field(default="", name="publicIP")
    public_port: int = 0
    config: dict[str, str] = msgspec.field(default_factory=dict)


class ProxyConfig(Part, frozen=True):
    replicas: int = msgspec.field(default=0, name="Replicas")
    proxy_http_port: str = msgspec.field(default="", name="proxyHTTPPort")
    proxy_https_port: str = msgspec.field(default="", name="proxyHTTPSPort")


class TunnelConfig(Part, frozen=True):
    replicas: int = msgspec.field(default=0, name="Replicas")


class GatewaySpec(Part, frozen=True):
    expose_type: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    proxy_config: ProxyConfig = ProxyConfig()
    tunnel_config: TunnelConfig = TunnelConfig()


class NodeInfo(Part, frozen=True):
    """A node of the site; its three fields are always sent, as OpenYurt's schema requires them."""

    node_name: str
    private_ip: str = msgspec.field(name="privateIP")
    subnets: tuple[str, ...]


class GatewayStatus(Part, frozen=True):
    nodes: tuple[NodeInfo, ...] = ()
    active_endpoints: tuple[Endpoint, ...] = ()
    active_endpoint: Endpoint | None = None  # v1alpha1 only
    conditions: tuple[Condition, ...] = ()
    observed_generation: int = 0


class Gateway(Part, frozen=True):
    metadata: Meta
    spec: GatewaySpec = GatewaySpec()
    status: GatewayStatus = GatewayStatus()


def from_v1alpha1(old: Gateway) -> Gateway:
    """A v1alpha1 Gateway as v1beta1 says the same: tunnels only, one of them active."""
    active = [old.status.active_endpoint] if old.status.active_endpoint is not None else []
    spec = msgspec.structs.replace(
        old.spec, endpoints=_tunnels(old.spec.endpoints), tunnel_config=TunnelConfig(replicas=1)
    )
    status = msgspec.structs.replace(old.status, active_endpoints=_tunnels(active), active_endpoint=None)
    return msgspec.structs.replace(old, spec=spec, status=status)


def _tunnels(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple(msgspec.structs.replace(one, type=one.type or "tunnel") for one in endpoints)


GROUP = "raven.openyurt.io"
GATEWAYS = Kind(GROUP, "v1beta1", "gateways", "Gateway", Gateway, namespaced=False)
GATEWAYS_V1ALPHA1 = Kind(GROUP, "v1alpha1", "gateways", "Gateway", Gateway, namespaced=False)
