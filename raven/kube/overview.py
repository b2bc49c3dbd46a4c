"""A cluster as its API server tells it: gateways, sites, who carries what, and how fresh each word is.

Decides only, of objects that `survey` reads and a time. How old the evidence for a site is stands in the
leader's Lease: while it is renewed the leader looks at every tunnel every few seconds and writes what
changes, so a site is as it is written, up to the Lease's last renewal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from raven.errors import PeerError
from raven.kube import cluster_info
from raven.kube.conventions import (
    CONFIG,
    ENABLE_PROXY,
    ENABLE_TUNNEL,
    GATEWAY_LABEL,
    NAMESPACE,
    TUNNEL,
    lanes,
)
from raven.kube.gateways import Gateway
from raven.kube.objects import Condition, moment
from raven.kube.resources import ConfigMap, Lease, Node, Pod
from raven.spans import age
from raven.status import Lane, judged


class GatewayState(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's process."""

    name: str
    leads: bool
    leads_for_s: float | None = None  # since it took the Lease
    evidence_age_s: float | None = None  # of that it leads: since it last renewed the Lease
    ready: bool | None = None  # of its pod; None where it runs in none, or pods may not be read
    ready_for_s: float | None = None  # since the pod became, or ceased to be, ready
    address: str = ""  # where agents dial it; "" where no edge is told of it


class ActiveEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    type: str  # proxy or tunnel
    address: str = ""  # public, where it has one


class SiteNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a site."""

    name: str
    ready: bool | None  # None where the cluster has no such node
    ready_for_s: float | None  # since it became, or ceased to be, ready
    subnets: list[str]
    active: list[str]  # types of its endpoints that are


class SiteState(msgspec.Struct, frozen=True, kw_only=True):
    """A Gateway resource."""

    name: str
    expose: str  # "" dials out
    lane: Lane  # up, down, stale or off, with the age of the evidence
    for_s: float | None  # since it became so
    active: list[ActiveEndpoint]
    nodes: list[SiteNode]
    problems: list[str]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """`ravenctl --kubeconfig FILE status -o json` prints this."""

    server: str
    cluster: str  # "" where no gateway has published it
    gateways: list[GatewayState]
    sites: list[SiteState]
    problems: list[str]  # sentences an operator should read; those of the sites stand there
    notes: list[str]  # what could not be read, and breaks nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The objects it follows from."""

    server: str
    gateways: list[Gateway]
    nodes: list[Node]
    lease: Lease | None
    config: ConfigMap | None
    info: ConfigMap | None
    pods: list[Pod]
    notes: list[str]


def overview(facts: Facts, *, now: float) -> Overview:
    """What the objects say at `now`, in Unix seconds."""
    problems: list[str] = []
    info = None
    if facts.info is not None:
        try:
            info = cluster_info.read_untrusted(facts.info)
        except PeerError as error:
            problems.append(str(error))
    gateways = _gateways(facts, dict(info.gateways) if info is not None else {}, now)
    problems += _of_gateways(facts, gateways)
    problems += _of_switches(facts)
    nodes = {one.metadata.name: one for one in facts.nodes}
    sites = sorted(facts.gateways, key=lambda one: one.metadata.name)
    names = {one.metadata.name for one in sites}
    for node in sorted(nodes):
        site = nodes[node].metadata.labels.get(GATEWAY_LABEL, "")
        if site and site not in names:
            problems.append(f"node {node} is labelled {GATEWAY_LABEL}={site}, and there is no such Gateway")
    leader = next((one for one in gateways if one.leads), None)
    evidence = leader.evidence_age_s if leader is not None else None
    return Overview(
        server=facts.server,
        cluster=info.cluster if info is not None else "",
        gateways=gateways,
        sites=[_site(one, nodes, evidence, now) for one in sites],
        problems=problems,
        notes=sorted(facts.notes),
    )


def _gateways(facts: Facts, told: dict[str, str], now: float) -> list[GatewayState]:
    """Those that run in pods, that edges are told of, or that lead; by name."""
    spec = facts.lease.spec if facts.lease is not None else None
    holder = (spec.holder_identity or "") if spec is not None else ""
    ready = {
        one.spec.node_name or one.metadata.name: _condition(one.status.conditions, "Ready")
        for one in facts.pods
    }
    found = []
    for name in sorted({*ready, *told, *([holder] if holder else [])}):
        condition = ready.get(name)
        leads = name == holder
        found.append(
            GatewayState(
                name=name,
                leads=leads,
                leads_for_s=_since(spec.acquire_time, now) if leads and spec is not None else None,
                evidence_age_s=_since(spec.renew_time, now) if leads and spec is not None else None,
                ready=(condition is not None and condition.status == "True") if name in ready else None,
                ready_for_s=_since(condition.last_transition_time, now) if condition is not None else None,
                address=told.get(name, ""),
            )
        )
    return found


def _of_gateways(facts: Facts, gateways: list[GatewayState]) -> Iterable[str]:
    log = "try: kubectl -n raven-system logs daemonset/raven-gateway"
    leader = next((one for one in gateways if one.leads), None)
    if leader is None:
        yield f"no gateway leads, so nobody judges sites or signs requests; {log}"
    elif _is_over(facts.lease, leader.evidence_age_s):
        yield (
            f"gateway {leader.name} led until {age(leader.evidence_age_s or 0)} ago and nobody has since;"
            f" what is said of sites is as old; {log}"
        )
    for one in gateways:
        if one.ready is False:
            yield f"the pod of gateway {one.name} is not ready; try: kubectl -n raven-system describe pods"


def _is_over(lease: Lease | None, seconds: float | None) -> bool:
    """Whether the Lease was renewed longer ago than it lasts."""
    return lease is not None and seconds is not None and seconds > (lease.spec.lease_duration_seconds or 0)


def _of_switches(facts: Facts) -> Iterable[str]:
    on = lanes(facts.config)
    if f"ConfigMap {NAMESPACE}/{CONFIG} may not be read" in facts.notes or not facts.gateways:
        return
    off = [key for key, is_on in ((ENABLE_PROXY, on.proxy), (ENABLE_TUNNEL, on.tunnel)) if not is_on]
    if len(off) == 2:
        yield f"ConfigMap {NAMESPACE}/{CONFIG} switches everything off: neither {' nor '.join(off)} is true"


def _site(gateway: Gateway, nodes: dict[str, Node], evidence: float | None, now: float) -> SiteState:
    status = gateway.status
    connected = _condition(status.conditions, "Connected")
    problems = [one.message for one in status.conditions if one.status == "False" and one.message]
    if status.observed_generation < gateway.metadata.generation:
        problems.append("what is said is of an earlier specification; no gateway has judged this one yet")
    active = [
        ActiveEndpoint(node=one.node_name, type=one.type, address=one.public_ip)
        for one in status.active_endpoints
    ]
    return SiteState(
        name=gateway.metadata.name,
        expose=gateway.spec.expose_type,
        lane=_lane(connected, evidence),
        for_s=_since(connected.last_transition_time, now) if connected is not None else None,
        active=active,
        nodes=[
            _node(one.node_name, nodes.get(one.node_name), list(one.subnets), active, now)
            for one in status.nodes
        ],
        problems=problems,
    )


def _lane(connected: Condition | None, evidence: float | None) -> Lane:
    """The site's state, no better than the leader's last sign of life."""
    if connected is None:
        return Lane(state="stale", detail="no gateway has judged it yet")
    if connected.status == "Unknown":
        return Lane(
            state="off", evidence_age_s=evidence, detail="nothing is active there that could be measured"
        )
    if connected.status != "True":
        return Lane(state="down", evidence_age_s=evidence, detail=connected.message)
    if evidence is None:
        return Lane(state="stale", detail="nobody leads, so nobody looks")
    return judged(Lane(state="up", evidence_age_s=evidence))


def _node(
    name: str, node: Node | None, subnets: list[str], active: list[ActiveEndpoint], now: float
) -> SiteNode:
    condition = _condition(node.status.conditions, "Ready") if node is not None else None
    return SiteNode(
        name=name,
        ready=node.is_ready() if node is not None else None,
        ready_for_s=_since(condition.last_transition_time, now) if condition is not None else None,
        subnets=subnets,
        active=[one.type for one in active if one.node == name],
    )


def carrier(site: SiteState) -> str:
    """The node that carries the pod networks of the whole site; "" for none."""
    return next((one.node for one in site.active if one.type == TUNNEL), "")


def _condition(conditions: Iterable[Condition], type: str) -> Condition | None:
    return next((one for one in conditions if one.type == type), None)


def _since(text: str | None, now: float) -> float | None:
    """Seconds; a clock that is a little behind the API server's makes nothing negative."""
    then = moment(text)
    return None if then is None else max(0.0, now - then)
