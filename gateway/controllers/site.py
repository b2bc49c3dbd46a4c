"""The status of one Gateway: which nodes its site has, what pod networks they carry, who is active, and why.

A plain function of what the cluster says and what was measured. Membership is the node's label and nothing
else, so two Gateways that name one node cannot both have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from gateway.controllers import problems
from gateway.controllers.problems import Claim
from gateway.controllers.services import without_a_door
from raven.errors import PeerError
from raven.kube.conventions import (
    ENABLE_PROXY,
    ENABLE_TUNNEL,
    EXTRA_CIDRS,
    GATEWAY_LABEL,
    PROXY,
    PUBLIC_IP,
    TUNNEL,
    Doors,
    Lanes,
    address_of,
    port_of,
)
from raven.kube.gateways import Endpoint, Gateway, GatewayStatus, NodeInfo
from raven.kube.objects import Condition, timestamp
from raven.kube.resources import BlockAffinity, Node
from raven.topology.election import Health, elect
from raven.topology.model import parse_pod_networks_untrusted

_CALICO = "projectcalico.org"
# Kubernetes 1.20 refuses an empty string in this place as if it were null, and the schema wants the field.
_UNSPECIFIED = "0.0.0.0"
_SHOWN_MAX = 8  # sentences in one condition; a Gateway of hundreds of nodes may have as many

Measured = Callable[[str, str], Health | None]  # node, type of endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one Gateway's status follows from."""

    gateway: Gateway
    nodes: Sequence[Node]  # those with its label
    known: Callable[[str], Node | None]  # any node of the cluster, by name
    blocks: Callable[[str], Iterable[BlockAffinity]]  # Calico's, by node
    lanes: Lanes
    doors: Doors
    held: Mapping[Claim, str]  # public ports: the Gateway they belong to
    measured: Measured
    load_balancers: Mapping[tuple[str, str], str]  # node and type: the address that its Service was given


def site_status(facts: Facts, *, now: float) -> GatewayStatus:
    """What the Gateway's status shall be; equal to the one it has when nothing changed."""
    gateway = facts.gateway
    said = problems.spec_problems(gateway)
    active: list[Endpoint] = []
    missing: list[str] = []
    for type, replicas in (
        (PROXY, gateway.spec.proxy_config.replicas),
        (TUNNEL, min(1, gateway.spec.tunnel_config.replicas)),
    ):
        if facts.lanes.is_on(type):
            chosen = _elected(facts, type, replicas)
            active += chosen
            if len(chosen) < replicas:
                missing.append(_why_missing(facts, type, len(chosen), replicas))
    said += problems.taken(gateway, facts.held).values()
    said += _strangers(facts)
    wrong, notes = without_a_door(gateway, facts.doors)
    said += wrong
    said += _undialled(gateway, active)
    infos = []
    for node in sorted(facts.nodes, key=lambda node: node.metadata.name):
        info, wrong = node_info(node, facts.blocks(node.metadata.name))
        infos.append(info)
        said += wrong
    infos, wrong = _with_extra(gateway, infos, active)
    said += wrong
    generation = gateway.metadata.generation
    return GatewayStatus(
        nodes=tuple(infos),
        active_endpoints=tuple(sorted(active, key=lambda one: (one.node_name, one.type))),
        conditions=tuple(
            _condition(gateway.status.conditions, type, good, reason, message, generation, now)
            for type, good, reason, message in (
                ("Accepted", not said, "Problems" if said else "Valid", _joined(said + notes)),
                ("Ready", not missing, "NoEndpoint" if missing else "Active", _joined(missing)),
                ("Connected", *_connected(facts, active)),
            )
        ),
        observed_generation=generation,
    )


def pod_networks(node: Node, blocks: Iterable[BlockAffinity]) -> list[str]:
    """The pod networks of a node, as the cluster says: Calico's where Calico is, else the node's own."""
    if any(_CALICO in key for key in node.metadata.annotations):
        confirmed = (
            one.spec.cidr
            for one in blocks
            if one.spec.state == "confirmed"
            and one.spec.node == node.metadata.name
            and one.spec.deleted != "true"
        )
        return sorted(set(confirmed))
    return list(node.spec.pod_cidrs) or ([node.spec.pod_cidr] if node.spec.pod_cidr else [])


def node_info(node: Node, blocks: Iterable[BlockAffinity]) -> tuple[NodeInfo, list[str]]:
    """The node as the status lists it, and what of it cannot be used."""
    subnets, wrong = _usable(pod_networks(node, blocks), f"node {node.metadata.name}")
    info = NodeInfo(
        node_name=node.metadata.name,
        private_ip=address_of(node, "InternalIP") or _UNSPECIFIED,
        subnets=tuple(subnets),
    )
    return info, wrong


def _usable(texts: Iterable[str], whose: str) -> tuple[list[str], list[str]]:
    """The networks that may be routed, and a sentence for each that may not."""
    good: list[str] = []
    wrong: list[str] = []
    for text in texts:
        network, problem = _judged(text)
        if problem:
            wrong.append(f"{whose}: {problem}")
        else:
            good.append(network)
    return good, wrong


@lru_cache(
    maxsize=1 << 15
)  # a cluster's pod networks and more: judging one takes 50 µs, and they do not change
def _judged(text: str) -> tuple[str, str]:
    """The network in its one spelling, or why nobody may carry it."""
    try:
        (network,) = parse_pod_networks_untrusted([text])
    except PeerError as error:
        return "", str(error)
    return str(network), ""


def _elected(facts: Facts, type: str, replicas: int) -> list[Endpoint]:
    gateway = facts.gateway
    taken = problems.taken(gateway, facts.held)
    candidates = [
        (one.node_name, one)
        for one in gateway.spec.endpoints
        if one.type == type and problems.is_usable(one) and (one.node_name, one.type) not in taken
    ]
    health = {}
    for node, _ in candidates:
        if (measured := facts.measured(node, type)) is not None:
            health[node] = measured
    winners = elect(
        candidates,
        ready={node.metadata.name for node in facts.nodes if node.is_ready()},
        incumbents=[one.node_name for one in gateway.status.active_endpoints if one.type == type],
        health=health,
        replicas=replicas,
    )
    return [_active(facts, endpoint) for _, endpoint in winners]


def _active(facts: Facts, endpoint: Endpoint) -> Endpoint:
    """An endpoint as the status shows it: with its port, where it is reached, and its lane's switch."""
    public = endpoint.public_ip or facts.load_balancers.get((endpoint.node_name, endpoint.type), "")
    if not public and facts.gateway.spec.expose_type == PUBLIC_IP:
        node = facts.known(endpoint.node_name)
        public = address_of(node, "ExternalIP") if node is not None else ""
    switch = ENABLE_PROXY if endpoint.type == PROXY else ENABLE_TUNNEL
    return msgspec.structs.replace(
        endpoint, port=port_of(endpoint), public_ip=public, config={**endpoint.config, switch: "true"}
    )


def _strangers(facts: Facts) -> list[str]:
    """Endpoints on nodes that are not in this site."""
    members = {node.metadata.name for node in facts.nodes}
    found = []
    for name in dict.fromkeys(one.node_name for one in facts.gateway.spec.endpoints):
        if name in members or not name:
            continue
        node = facts.known(name)
        if node is None:
            found.append(f"endpoints name node {name}, which the cluster does not have")
            continue
        where = node.metadata.labels.get(GATEWAY_LABEL, "")
        found.append(
            f"endpoints name node {name}, which is "
            + (
                f"in Gateway {where} by its label"
                if where
                else f"in no Gateway: it lacks the label {GATEWAY_LABEL}"
            )
        )
    return found


def _undialled(gateway: Gateway, active: Iterable[Endpoint]) -> list[str]:
    """Active endpoints that nobody can dial, of a Gateway that is exposed by addresses of its own."""
    if gateway.spec.expose_type != PUBLIC_IP:
        return []
    return [
        f"exposeType is PublicIP, but the {one.type} endpoint of node {one.node_name} has no publicIP, "
        "and the node no ExternalIP"
        for one in active
        if not one.public_ip
    ]


def _why_missing(facts: Facts, type: str, got: int, wanted: int) -> str:
    named = [one.node_name for one in facts.gateway.spec.endpoints if one.type == type]
    if not named:
        return f"no endpoint of type {type}, {wanted} wanted"
    ready = {node.metadata.name for node in facts.nodes if node.is_ready()}
    lacking = [name for name in dict.fromkeys(named) if name not in ready]
    because = f"; not ready, or not in this site: {' '.join(lacking[:_SHOWN_MAX])}" if lacking else ""
    return f"{got} of {wanted} endpoints of type {type} active{because}"


def _connected(facts: Facts, active: Sequence[Endpoint]) -> tuple[bool | None, str, str]:
    """Whether the active endpoints are reached, as the leader measures it; with a reason and sentences.

    No time stands in the sentences: one that grew would be one write a site and look. How fresh they are is
    what the leader's Lease tells, since it looks again every few seconds as long as it leads.
    """
    exposed = bool(facts.gateway.spec.expose_type)
    missed = {PROXY: "no tunnel to", TUNNEL: "no packets to"}
    known, lost = 0, []
    for one in active:
        health = facts.measured(one.node_name, one.type)
        known += health is not None
        if health is None and not exposed:
            lost.append(f"node {one.node_name} has not joined: no agent of that name is known")
        elif health is not None and health.is_down():
            lost.append(f"{'no ready gateway on' if exposed else missed[one.type]} node {one.node_name}")
    if lost:
        return False, "NoTunnel", _joined(list(dict.fromkeys(lost)))
    return (True, "Measured", "") if known else (None, "NotMeasured", "")


def _with_extra(
    gateway: Gateway, infos: list[NodeInfo], active: Iterable[Endpoint]
) -> tuple[list[NodeInfo], list[str]]:
    """Adds the networks of the annotation to the node that carries the site's tunnel."""
    texts = [
        item for item in map(str.strip, gateway.metadata.annotations.get(EXTRA_CIDRS, "").split(",")) if item
    ]
    extra, wrong = _usable(texts, f"annotation {EXTRA_CIDRS}")
    carrier = next((one.node_name for one in active if one.type == TUNNEL), None)
    return [
        msgspec.structs.replace(info, subnets=(*info.subnets, *extra)) if info.node_name == carrier else info
        for info in infos
    ], wrong


def _joined(sentences: Sequence[str]) -> str:
    more = len(sentences) - _SHOWN_MAX
    return "; ".join([*sentences[:_SHOWN_MAX], *([f"and {more} more"] if more > 0 else [])])


def _condition(
    old: Iterable[Condition],
    type: str,
    good: bool | None,
    reason: str,
    message: str,
    generation: int,
    now: float,
) -> Condition:
    """The condition; the time it has is kept as long as its status is. None is Unknown."""
    status = "Unknown" if good is None else "True" if good else "False"
    before = next((one for one in old if one.type == type), None)
    same = before is not None and before.status == status
    since = before.last_transition_time if same and before is not None else timestamp(now)
    return Condition(
        type=type,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
