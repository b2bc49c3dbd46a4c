"""The Services and EndpointSlices that lead to gateways: what shall be there, as values.

Each LoadBalancer Gateway has one Service for each active endpoint; all exposed Gateways together have the
internal one, at whose address the cluster finds its nodes. None has a selector: which gateways answer is
elected, so their slices are ours.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from gateway.controllers.problems import parse_port, split_ports
from raven.kube.conventions import (
    DEFAULT_PORTS,
    DISCARD,
    ENDPOINT_LABEL,
    GATEWAY_LABEL,
    INTERNAL_SERVICE,
    LOAD_BALANCER,
    MANAGED_BY_LABEL,
    MANAGER,
    NAMESPACE,
    PROTOCOLS,
    PROXY,
    PUBLIC_IP,
    SERVICE_NAME_LABEL,
    SERVICE_PREFIXES,
    TYPE_LABEL,
    Doors,
    Lanes,
    address_of,
    port_of,
)
from raven.kube.gateways import Endpoint, Gateway
from raven.kube.objects import Meta
from raven.kube.resources import (
    HOSTNAME_LABEL,
    EndpointConditions,
    EndpointSlice,
    Node,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)

NodeOf = Callable[[str], Node | None]
Serves = Callable[[str], bool]  # of a node: False where its gateway is known not to answer now
_NAME_MAX = 63  # characters of a Service's name, RFC 1035


class Wanted(NamedTuple):
    """A Service and the slices that belong to it."""

    service: Service
    slices: tuple[EndpointSlice, ...]


def _everybody(node: str) -> bool:
    return True


def exposing(gateway: Gateway, lanes: Lanes, node_of: NodeOf, serves: Serves = _everybody) -> list[Wanted]:
    """One Service an active endpoint, where the Gateway is exposed by load balancers."""
    if gateway.spec.expose_type != LOAD_BALANCER:
        return []
    return [
        _exposing(gateway, endpoint, node_of, serves)
        for endpoint in gateway.status.active_endpoints
        if endpoint.type in PROTOCOLS and lanes.is_on(endpoint.type)
    ]


def _exposing(gateway: Gateway, endpoint: Endpoint, node_of: NodeOf, serves: Serves) -> Wanted:
    type, site = endpoint.type, gateway.metadata.name
    labels = {GATEWAY_LABEL: site, TYPE_LABEL: type, ENDPOINT_LABEL: endpoint.node_name}
    name = service_name(SERVICE_PREFIXES[type], site, endpoint.node_name)
    port = ServicePort(
        port=port_of(endpoint), protocol=PROTOCOLS[type], target_port=DEFAULT_PORTS[type], name=type
    )
    service = Service(
        metadata=Meta(name=name, namespace=NAMESPACE, labels=labels, annotations=DISCARD),
        spec=ServiceSpec(type=LOAD_BALANCER, external_traffic_policy="Local", ports=(port,)),
    )
    return Wanted(service, _slices(service, [endpoint.node_name], node_of, serves))


def service_name(prefix: str, site: str, node: str) -> str:
    """A name that is always the same for a node of a site, and another for any other.

    Services have shorter names than nodes and Gateways, and without dots: hence the digest.
    """
    digest = hashlib.sha256(f"{site}/{node}".encode()).hexdigest()[:8]
    room = _NAME_MAX - len(prefix) - len(digest) - 2
    return "-".join([prefix, re.sub(r"[^a-z0-9-]", "-", site)[:room].strip("-"), digest])


def internal(
    gateways: Iterable[Gateway], lanes: Lanes, doors: Doors, node_of: NodeOf, serves: Serves = _everybody
) -> Wanted | None:
    """The internal proxy Service; None where it would have no port, or the proxy is switched off."""
    exposed = sorted(
        (one for one in gateways if one.spec.expose_type in (PUBLIC_IP, LOAD_BALANCER)),
        key=lambda one: one.metadata.name,
    )
    ports = _internal_ports(exposed, doors)
    if not lanes.proxy or not ports:
        return None
    nodes = [
        endpoint.node_name
        for gateway in exposed
        for endpoint in gateway.status.active_endpoints
        if endpoint.type == PROXY
    ]
    service = Service(
        metadata=Meta(name=INTERNAL_SERVICE, namespace=NAMESPACE, labels={"app": "raven"}),
        spec=ServiceSpec(type="ClusterIP", ports=tuple(ports)),
    )
    return Wanted(service, _slices(service, sorted(set(nodes)), node_of, serves))


def _internal_ports(exposed: Iterable[Gateway], doors: Doors) -> list[ServicePort]:
    """The ports that any of them names, where there is a door for it: through another's one would come to
    another port of the node. One that is named as both is secure, since it is the kubelet's.
    """
    found: dict[int, ServicePort] = {}
    for gateway in exposed:
        config = gateway.spec.proxy_config
        for port in _ports(config.proxy_http_port):
            if doors.http and port not in found:
                found[port] = ServicePort(port=port, name=f"http-{port}", target_port=doors.http)
        for port in _ports(config.proxy_https_port):
            if port in doors.https:
                found[port] = ServicePort(port=port, name=f"https-{port}", target_port=doors.https[port])
    return [found[port] for port in sorted(found)]


def without_a_door(gateway: Gateway, doors: Doors) -> tuple[list[str], list[str]]:
    """Sentences on the ports it names that the internal Service does not have: wrong ones, and mere notes.

    A note is what most clusters never use, and the CRD names by default.
    """
    if gateway.spec.expose_type not in (PUBLIC_IP, LOAD_BALANCER):
        return [], []
    config = gateway.spec.proxy_config
    wrong = [
        f"proxyConfig.proxyHTTPSPort {port}: left out, the gateways have no names_listen that leads to it"
        for port in _ports(config.proxy_https_port)
        if port not in doors.https
    ]
    plain = ", ".join(map(str, _ports(config.proxy_http_port)))
    if doors.http or not plain:
        return wrong, []
    return wrong, [
        f"proxyConfig.proxyHTTPPort {plain}: left out, the gateways' oam_listen is for their own machines"
    ]


def _ports(texts: str) -> list[int]:
    return [port for port in map(parse_port, split_ports(texts)) if port is not None]


def _slices(
    service: Service, nodes: Iterable[str], node_of: NodeOf, serves: Serves
) -> tuple[EndpointSlice, ...]:
    """The Service's slice of IPv4, the one of IPv6, or both. One without endpoints stays, to say so.

    An endpoint that does not answer now stays active, where there is no other to elect, and is not ready.
    """
    by_family: dict[str, list[SliceEndpoint]] = {}
    for name in nodes:
        node = node_of(name)
        address = address_of(node, "InternalIP") if node is not None else ""
        if address:
            family = f"IPv{ipaddress.ip_address(address).version}"
            by_family.setdefault(family, []).append(
                SliceEndpoint(
                    addresses=(address,), node_name=name, conditions=EndpointConditions(ready=serves(name))
                )
            )
    name = service.metadata.name
    return tuple(
        EndpointSlice(
            metadata=Meta(
                name=name if family == "IPv4" else f"{name}-v6",
                namespace=service.metadata.namespace,
                labels={**service.metadata.labels, SERVICE_NAME_LABEL: name, MANAGED_BY_LABEL: MANAGER},
            ),
            address_type=family,
            endpoints=tuple(endpoints),
            ports=tuple(
                SlicePort(port=int(one.target_port), name=one.name, protocol=one.protocol)
                for one in service.spec.ports
            ),
        )
        for family, endpoints in sorted((by_family or {"IPv4": []}).items())
    )


def as_v1beta1(slice: EndpointSlice) -> EndpointSlice:
    """The slice for discovery v1beta1, where a node stands in the topology."""
    return msgspec.structs.replace(
        slice,
        endpoints=tuple(
            msgspec.structs.replace(one, node_name="", topology={HOSTNAME_LABEL: one.node})
            for one in slice.endpoints
        ),
    )


def service_as_wanted(held: Service, wanted: Service) -> Service:
    """`held` with what we decide of a Service; what the API server has given it stays."""
    given = {(one.port, one.protocol): one.node_port for one in held.spec.ports}
    ports = tuple(
        msgspec.structs.replace(one, node_port=given.get((one.port, one.protocol), 0))
        for one in wanted.spec.ports
    )
    spec = msgspec.structs.replace(held.spec, type=wanted.spec.type, ports=ports)
    if wanted.spec.external_traffic_policy:
        spec = msgspec.structs.replace(spec, external_traffic_policy=wanted.spec.external_traffic_policy)
    return msgspec.structs.replace(held, metadata=meta_as_wanted(held.metadata, wanted.metadata), spec=spec)


def slice_as_wanted(held: EndpointSlice, wanted: EndpointSlice) -> EndpointSlice:
    return msgspec.structs.replace(
        held,
        metadata=meta_as_wanted(held.metadata, wanted.metadata),
        endpoints=wanted.endpoints,
        ports=wanted.ports,
    )


def meta_as_wanted(held: Meta, wanted: Meta) -> Meta:
    """`held` with our labels and annotations beside those of others."""
    return msgspec.structs.replace(
        held,
        labels={**held.labels, **wanted.labels},
        annotations={**held.annotations, **wanted.annotations},
    )
