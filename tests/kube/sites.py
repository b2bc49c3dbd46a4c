"""A cluster's objects at one moment: sites, nodes, pods and who leads, and all is well."""

from __future__ import annotations

from typing import Any

from raven.kube.cluster_info import ClusterInfo
from raven.kube.conventions import GATEWAY_LABEL
from raven.kube.gateways import GATEWAYS, Endpoint, Gateway, GatewaySpec, GatewayStatus, NodeInfo
from raven.kube.objects import Condition, Meta, timestamp
from raven.kube.overview import Facts
from raven.kube.resources import (
    CONFIG_MAPS,
    LEASES,
    NODES,
    PODS,
    ConfigMap,
    Lease,
    LeaseSpec,
    Node,
    NodeStatus,
    Pod,
    PodSpec,
    PodStatus,
)
from tests.kube.fake import FakeApi

NOW = 1.7e9


def ago(seconds: float) -> str:
    return timestamp(NOW - seconds)


def condition(type: str, state: str, *, since: float, message: str = "") -> Condition:
    return Condition(type=type, status=state, message=message, last_transition_time=ago(since))


def site(name: str, *conditions: Condition, generation: int = 1, judged: int = 1) -> Gateway:
    active = Endpoint(node_name=f"{name}-1", type="tunnel", public_ip="192.0.2.7")
    return Gateway(
        metadata=Meta(name=name, generation=generation),
        spec=GatewaySpec(expose_type="PublicIP"),
        status=GatewayStatus(
            nodes=(NodeInfo(node_name=f"{name}-1", private_ip="10.0.0.1", subnets=("10.1.0.0/24",)),),
            active_endpoints=(active,),
            conditions=conditions,
            observed_generation=judged,
        ),
    )


def node(name: str, label: str, *, ready: bool = True) -> Node:
    ready_now = condition("Ready", str(ready), since=3600)
    return Node(
        metadata=Meta(name=name, labels={GATEWAY_LABEL: label}), status=NodeStatus(conditions=(ready_now,))
    )


def pod(on: str, *, ready: bool = True) -> Pod:
    state = PodStatus(conditions=(condition("Ready", str(ready), since=120),))
    labels = {"app.kubernetes.io/name": "raven-gateway"}
    meta = Meta(name=f"raven-gateway-{on}", namespace="raven-system", labels=labels)
    return Pod(metadata=meta, spec=PodSpec(node_name=on), status=state)


def lease(holder: str, *, renewed: float = 1.0, lead: float = 600.0) -> Lease:
    spec = LeaseSpec(
        holder_identity=holder, lease_duration_seconds=15, acquire_time=ago(lead), renew_time=ago(renewed)
    )
    return Lease(metadata=Meta(name="raven-gateway", namespace="kube-system"), spec=spec)


SWITCHES = ConfigMap(
    metadata=Meta(name="raven-cfg", namespace="kube-system"),
    data={"enable-l7-proxy": "true", "enable-l3-tunnel": "false"},
)
INFO = ConfigMap(
    metadata=Meta(name="raven-cluster-info", namespace="kube-public"),
    data=ClusterInfo("lab", "pem", (("c1", "gw-1.lan:443"), ("c2", "gw-2.lan:443"))).data(),
)
CONNECTED = condition("Connected", "True", since=7200)
WELL = Facts(
    server="https://api.lan",
    gateways=[site("shop", condition("Accepted", "True", since=9000), CONNECTED)],
    nodes=[node("shop-1", "shop")],
    lease=lease("c1"),
    config=SWITCHES,
    info=INFO,
    pods=[pod("c1"), pod("c2")],
    notes=[],
)
LOST = condition("Connected", "False", since=60, message="no tunnel to node shop-1")


def served(api: FakeApi) -> FakeApi:
    kinds: list[tuple[Any, Any]] = [
        (GATEWAYS, WELL.gateways[0]),
        (NODES, WELL.nodes[0]),
        (LEASES, WELL.lease),
        (CONFIG_MAPS, SWITCHES),
        (CONFIG_MAPS, INFO),
        *((PODS, one) for one in WELL.pods),
    ]
    for kind, one in kinds:
        api.add(kind, one)
    return api
