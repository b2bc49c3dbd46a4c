"""Nodes, Gateways and a running `Cluster` on the fake API server, in the shape most tests need."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from gateway.controllers.cluster import Cluster
from raven import log
from raven.kube.cluster_info import ClusterInfo
from raven.kube.conventions import ENABLE_PROXY, ENABLE_TUNNEL, GATEWAY_LABEL, INTERNAL_SERVICE, Doors
from raven.kube.gateways import (
    GATEWAYS,
    Endpoint,
    Gateway,
    GatewaySpec,
    GatewayStatus,
    ProxyConfig,
    TunnelConfig,
)
from raven.kube.objects import Condition, Meta
from raven.kube.resources import CONFIG_MAPS, NODES, ConfigMap, Node, NodeAddress, NodeSpec, NodeStatus
from raven.topology.election import Health
from tests.kube.fake import FakeApi


def node(
    name: str,
    site: str = "",
    *,
    address: str = "",
    external: str = "",
    cidrs: tuple[str, ...] = (),
    ready: bool = True,
    annotations: dict[str, str] | None = None,
) -> Node:
    addresses = [NodeAddress(type="InternalIP", address=address)] if address else []
    addresses += [NodeAddress(type="ExternalIP", address=external)] if external else []
    return Node(
        metadata=Meta(name=name, labels={GATEWAY_LABEL: site} if site else {}, annotations=annotations or {}),
        spec=NodeSpec(pod_cidr=cidrs[0] if cidrs else "", pod_cidrs=cidrs),
        status=NodeStatus(
            addresses=tuple(addresses),
            conditions=(Condition(type="Ready", status="True" if ready else "False"),),
        ),
    )


def gateway(
    name: str,
    *endpoints: Endpoint,
    expose: str = "",
    proxies: int = 0,
    tunnels: int = 0,
    http: str = "10255",
    https: str = "10250",
    annotations: dict[str, str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
    status: GatewayStatus | None = None,
) -> Gateway:
    return Gateway(
        metadata=Meta(name=name, generation=1, annotations=annotations or {}, creation_timestamp=created),
        spec=GatewaySpec(
            expose_type=expose,
            endpoints=endpoints,
            proxy_config=ProxyConfig(replicas=proxies, proxy_http_port=http, proxy_https_port=https),
            tunnel_config=TunnelConfig(replicas=tunnels),
        ),
        status=status or GatewayStatus(),
    )


def tunnel(node: str, **fields: Any) -> Endpoint:
    return Endpoint(node_name=node, type="tunnel", **fields)


def proxy(node: str, **fields: Any) -> Endpoint:
    return Endpoint(node_name=node, type="proxy", **fields)


def switches(*, proxy: bool = True, tunnel: bool = True) -> ConfigMap:
    data = {ENABLE_PROXY: str(proxy), ENABLE_TUNNEL: str(tunnel)}
    return ConfigMap(metadata=Meta(name="raven-cfg", namespace="kube-system"), data=data)


class Scene:
    """A fake API server with what a test puts there, and the health that its gateway measures."""

    def __init__(self, *objects: Node | Gateway | ConfigMap) -> None:
        self.api = FakeApi()
        self.health: dict[tuple[str, str], Health] = {}
        self.wall = 1.8e9
        self.doors = Doors({10250: 10263}, 10264)
        self.info: Callable[[], ClusterInfo] | None = None  # what joining edges are told
        for one in (switches(), *objects):
            self.add(one)

    def add(self, one: Node | Gateway | ConfigMap) -> None:
        kind: Any = {Node: NODES, Gateway: GATEWAYS, ConfigMap: CONFIG_MAPS}[type(one)]
        body = json.loads(kind.encode(one))
        made = self.api.add(kind, body)
        if isinstance(one, Gateway) and one.metadata.creation_timestamp:
            made["metadata"]["creationTimestamp"] = one.metadata.creation_timestamp

    def cluster(self, identity: str = "one") -> Cluster:
        return Cluster(
            self.api.client(),
            identity=identity,
            namespace="kube-system",
            service="raven-gateway",
            doors=self.doors,
            tunnels=lambda node, type: self.health.get((node, type)),
            log=log.get("test"),
            wall=lambda: self.wall + trio.current_time(),
            info=self.info,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Cluster]:
        cluster = self.cluster()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.run)
            await self.settle()
            yield cluster
            nursery.cancel_scope.cancel()

    async def settle(self, seconds: float = 5.0) -> None:
        """Virtual time for everything that is due to happen."""
        await trio.sleep(seconds)

    def writes(self) -> list[str]:
        """What was sent that changes something, but for the Lease and Events."""
        return [
            line
            for line in self.api.requests
            if not line.startswith("GET") and "/leases" not in line and "/events" not in line
        ]

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.objects["gateways", name].get("status", {})
        return found

    def active(self, name: str) -> list[tuple[str, str]]:
        return [(one["nodeName"], one["type"]) for one in self.status(name).get("activeEndpoints", [])]

    def condition(self, name: str, type: str) -> dict[str, Any]:
        return next(one for one in self.status(name)["conditions"] if one["type"] == type)

    def events(self) -> list[tuple[str, str]]:
        return [(one["reason"], one["message"]) for one in self.api.all("events")]

    def addresses(self, name: str = INTERNAL_SERVICE) -> list[str]:
        """Of the endpoints of a Service that are ready."""
        found = self.api.objects["endpointslices", f"kube-system/{name}"]
        return [one["addresses"][0] for one in found["endpoints"] if one["conditions"]["ready"]]


EDGE = (
    node("e1", "shop", address="10.0.0.1", cidrs=("10.1.0.0/24",)),
    node("e2", "shop", address="10.0.0.2", cidrs=("10.1.1.0/24",)),
    gateway("shop", tunnel("e1", under_nat=True), tunnel("e2", under_nat=True), tunnels=1),
)
CLOUD = (
    node("c1", "cloud", address="192.0.2.1"),
    node("c2", "cloud", address="192.0.2.2"),
    gateway("cloud", proxy("c1", public_ip="198.51.100.1"), proxy("c2"), expose="PublicIP", proxies=2),
)
