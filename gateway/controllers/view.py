"""The cluster as last heard, with the indexes that reconciling needs, and what each change calls for.

Keeps of every object the few fields that anybody here reads: 10,000 Nodes fit beside a gateway's other work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import trio
from structlog.typing import FilteringBoundLogger

from gateway.controllers.problems import Claim, claim, claims
from raven.kube.client import Client
from raven.kube.conventions import (
    CONFIG,
    ENDPOINT_LABEL,
    GATEWAY_LABEL,
    INTERNAL_SERVICE,
    MANAGED_BY_LABEL,
    MANAGER,
    NAMESPACE,
    NODES_CONFIG,
    SERVICE_NAME_LABEL,
    TYPE_LABEL,
    Lanes,
    lanes,
)
from raven.kube.gateways import GATEWAYS_V1ALPHA1, Gateway, from_v1alpha1
from raven.kube.objects import Kind, Meta, Resource
from raven.kube.resources import (
    BLOCK_AFFINITIES,
    CONFIG_MAPS,
    NODES,
    SERVICES,
    BlockAffinity,
    ConfigMap,
    EndpointSlice,
    Node,
    NodeStatus,
    Service,
)
from raven.kube.watch import Cache

SETTLE = 1.0  # seconds changes gather before the hosts file, which names every node, is written again
_CALICO = "projectcalico.org"
_LABELS = {GATEWAY_LABEL, TYPE_LABEL, ENDPOINT_LABEL, SERVICE_NAME_LABEL, MANAGED_BY_LABEL, "app"}


class Key(NamedTuple):
    """What to look at again."""

    what: str  # site, services, internal, hosts, info or request
    name: str = ""  # of the Gateway or the certificate request

    def __str__(self) -> str:
        return f"{self.what} {self.name}".rstrip()


INTERNAL, HOSTS, INFO = Key("internal"), Key("hosts"), Key("info")


class Add(Protocol):
    def __call__(self, key: Key, *, after: float = 0.0) -> None: ...


class View:
    """All caches. `add` is told what a change calls for; `news` is set and replaced with every change."""

    def __init__(
        self,
        client: Client,
        *,
        gateway_kind: Kind[Gateway],
        slice_kind: Kind[EndpointSlice] | None,
        calico: bool,
        namespace: str,
        service: str,
        add: Add,
        log: FilteringBoundLogger,
    ) -> None:
        """`namespace` and `service` name the Service whose endpoints are the gateways' pods."""
        self._add = add
        self.news = trio.Event()
        self.gateway_kind, self.slice_kind = gateway_kind, slice_kind
        self.sites: dict[str, set[str]] = defaultdict(set)  # Gateway: its nodes
        self._blocks: dict[str, dict[str, BlockAffinity]] = defaultdict(dict)  # node: its block affinities
        self._named: dict[str, set[str]] = defaultdict(set)  # node: the Gateways whose endpoints name it
        self._claims: dict[Claim, str] | None = None
        old = gateway_kind is GATEWAYS_V1ALPHA1
        self.gateways = Cache(
            client,
            gateway_kind,
            keep=lambda gateway: _slim(from_v1alpha1(gateway) if old else gateway),
            changed=self._gateway_changed,
            log=log,
        )
        self.nodes = Cache(client, NODES, keep=_slim_node, changed=self._node_changed, log=log)
        self.config = Cache(
            client,
            CONFIG_MAPS,
            namespace=NAMESPACE,
            field_selector=f"metadata.name={CONFIG}",
            changed=self._config_changed,
            log=log,
        )
        self.hosts = Cache(
            client,
            CONFIG_MAPS,
            namespace=NAMESPACE,
            field_selector=f"metadata.name={NODES_CONFIG}",
            changed=lambda before, after: self._later(HOSTS),
            log=log,
        )
        self.services = Cache(
            client, SERVICES, namespace=NAMESPACE, keep=_slim, changed=self._service_changed, log=log
        )
        caches: list[Cache[Any]] = [self.gateways, self.nodes, self.config, self.hosts, self.services]
        self.slices: Cache[EndpointSlice] | None = None
        self.pods: Cache[EndpointSlice] | None = None
        if slice_kind is not None:
            self.slices = Cache(
                client,
                slice_kind,
                namespace=NAMESPACE,
                selector=f"{MANAGED_BY_LABEL}={MANAGER}",
                keep=_slim,
                changed=self._slice_changed,
                log=log,
            )
            self.pods = Cache(
                client,
                slice_kind,
                namespace=namespace,
                selector=f"{SERVICE_NAME_LABEL}={service}",
                keep=_slim,
                changed=self._pods_changed,
                log=log,
            )
            caches += [self.slices, self.pods]
        if calico:
            caches.append(Cache(client, BLOCK_AFFINITIES, changed=self._block_changed, log=log))
        self.caches = caches

    async def run(self) -> None:
        """Follows everything until cancelled."""
        async with trio.open_nursery() as nursery:
            for cache in self.caches:
                nursery.start_soon(cache.run)

    async def wait_synced(self) -> None:
        for cache in self.caches:
            await cache.synced.wait()

    def problems(self) -> list[str]:
        """A sentence for each kind of object that is not followed now."""
        return [
            f"Kubernetes: {cache.problem}; what is known is {cache.age():.0f} s old"
            for cache in self.caches
            if cache.problem
        ]

    @property
    def lanes(self) -> Lanes:
        return lanes(self.config.get(f"{NAMESPACE}/{CONFIG}"))

    @property
    def claims(self) -> dict[Claim, str]:
        if self._claims is None:
            self._claims = claims(self.gateways.objects.values())
        return self._claims

    def nodes_of(self, gateway: str) -> list[Node]:
        return [node for name in self.sites.get(gateway, ()) if (node := self.nodes.get(name)) is not None]

    def blocks_of(self, node: str) -> list[BlockAffinity]:
        return list(self._blocks.get(node, {}).values())

    def services_of(self, gateway: str) -> list[Service]:
        """The Services that expose a Gateway, ours and OpenYurt's."""
        return [
            one
            for one in self.services.objects.values()
            if one.metadata.labels.get(GATEWAY_LABEL) == gateway and TYPE_LABEL in one.metadata.labels
        ]

    def slices_for(self, service: str) -> list[EndpointSlice]:
        """Our slices of a Service."""
        if self.slices is None:
            return []
        return [
            one
            for one in self.slices.objects.values()
            if one.metadata.labels.get(SERVICE_NAME_LABEL) == service
        ]

    def load_balancers(self, gateway: str) -> dict[tuple[str, str], str]:
        """Node and type: the address its Service was given."""
        found = {}
        for one in self.services_of(gateway):
            ingress = one.status.load_balancer.ingress
            if ingress and (address := ingress[0].ip or ingress[0].hostname):
                labels = one.metadata.labels
                found[labels.get(ENDPOINT_LABEL, ""), labels[TYPE_LABEL]] = address
        return found

    def gateway_pods(self) -> dict[str, bool]:
        """Where the gateways' pods run, by node, and whether each is ready."""
        if self.pods is None:
            return {}
        return {
            endpoint.node: endpoint.conditions.ready is not False
            for one in self.pods.objects.values()
            for endpoint in one.endpoints
            if endpoint.node
        }

    def everything(self) -> Iterator[Key]:
        """What a new leader looks at."""
        for name in self.gateways.objects:
            yield Key("site", name)
            yield Key("services", name)
        # A Gateway that went while nobody led has left its Services.
        for name in {
            one.metadata.labels[GATEWAY_LABEL] for one in self._exposing()
        } - self.gateways.objects.keys():
            yield Key("services", name)
        yield INTERNAL
        yield HOSTS

    def _exposing(self) -> list[Service]:
        return [
            one
            for one in self.services.objects.values()
            if {GATEWAY_LABEL, TYPE_LABEL} <= one.metadata.labels.keys()
        ]

    def _look(self, *keys: Key) -> None:
        for key in keys:
            self._add(key)
        self.news.set()
        self.news = trio.Event()

    def _later(self, key: Key) -> None:
        self._add(key, after=SETTLE)

    def _gateway_changed(self, before: Gateway | None, after: Gateway | None) -> None:
        name = _either(before, after).metadata.name
        if before is None or after is None or before.spec != after.spec:
            rivals = {self.claims.get(one) for one in _claims_of(before)}
            self._claims = None
            wanted = _claims_of(before) | _claims_of(after)
            if wanted:  # whoever wants one of these ports as well may get it now, or lose it
                rivals |= {
                    one.metadata.name for one in self.gateways.objects.values() if _claims_of(one) & wanted
                }
            for rival in rivals - {None, name}:
                self._look(Key("site", str(rival)))
            for endpoint in before.spec.endpoints if before else ():
                self._named[endpoint.node_name].discard(name)
            for endpoint in after.spec.endpoints if after else ():
                self._named[endpoint.node_name].add(name)
        self._look(Key("site", name), Key("services", name), INTERNAL)
        if before is None or after is None or before.spec.expose_type != after.spec.expose_type:
            self._later(HOSTS)

    def _node_changed(self, before: Node | None, after: Node | None) -> None:
        name = _either(before, after).metadata.name
        was, now = _site(before), _site(after)
        if was:
            self.sites[was].discard(name)
        if now:
            self.sites[now].add(name)
        named = self._named.get(name, ())
        self._look(*(Key("site", site) for site in {was, now, *named} if site))
        if before is None or after is None or before.status.addresses != after.status.addresses or was != now:
            self._look(*(Key("services", site) for site in named), INTERNAL)
            self._later(HOSTS)

    def _block_changed(self, before: BlockAffinity | None, after: BlockAffinity | None) -> None:
        for one in (before, after):
            if one is not None:
                self._blocks[one.spec.node].pop(one.metadata.key, None)
        if after is not None:
            self._blocks[after.spec.node][after.metadata.key] = after
        nodes = {one.spec.node for one in (before, after) if one is not None}
        self._look(*(Key("site", site) for name in nodes if (site := _site(self.nodes.get(name)))))

    def _config_changed(self, before: ConfigMap | None, after: ConfigMap | None) -> None:
        if lanes(before) != lanes(after):
            self._look(*self.everything())

    def _service_changed(self, before: Service | None, after: Service | None) -> None:
        for one in (before, after):
            if one is None:
                continue
            if one.metadata.name == INTERNAL_SERVICE:
                self._look(INTERNAL)
                self._later(HOSTS)
            elif site := one.metadata.labels.get(GATEWAY_LABEL):
                self._look(Key("site", site), Key("services", site))

    def _slice_changed(self, before: EndpointSlice | None, after: EndpointSlice | None) -> None:
        labels = _either(before, after).metadata.labels
        site = labels.get(GATEWAY_LABEL)
        self._look(Key("services", site) if site else INTERNAL)

    def _pods_changed(self, before: EndpointSlice | None, after: EndpointSlice | None) -> None:
        exposed = [one.metadata.name for one in self.gateways.objects.values() if one.spec.expose_type]
        # First who is led to a gateway that does not answer, then whether another is elected.
        self._look(INTERNAL, *(Key(what, name) for what in ("services", "site") for name in exposed))


T = TypeVar("T", bound=Resource)


def _site(node: Node | None) -> str:
    return node.metadata.labels.get(GATEWAY_LABEL, "") if node is not None else ""


def _claims_of(gateway: Gateway | None) -> set[Claim]:
    if gateway is None:
        return set()
    return {wanted for one in gateway.spec.endpoints if (wanted := claim(one)) is not None}


def _slim_meta(meta: Meta, *, annotations: Callable[[str], bool]) -> Meta:
    return Meta(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        creation_timestamp=meta.creation_timestamp,
        labels={key: value for key, value in meta.labels.items() if key in _LABELS},
        annotations={key: value for key, value in meta.annotations.items() if annotations(key)},
    )


def _either(before: T | None, after: T | None) -> T:
    """The object a change is about: a watch tells of one that came, went, or both, never of neither."""
    one = after or before
    assert one is not None
    return one


def _slim(obj: T) -> T:
    # Every resource is a msgspec struct, which its bound, a protocol, cannot say.
    # What is left out differs on neither side of a patch, so it stays as it is in the cluster.
    return msgspec.structs.replace(  # type: ignore[type-var]
        obj, metadata=_slim_meta(obj.metadata, annotations=lambda key: "openyurt.io/" in key)
    )


def _slim_node(node: Node) -> Node:
    """Without its resource version and its heartbeats: a node whose rest is the same has not changed."""
    meta = _slim_meta(node.metadata, annotations=lambda key: _CALICO in key)
    ready = tuple(
        msgspec.structs.replace(one, message="", reason="", last_transition_time=None)
        for one in node.status.conditions
        if one.type == "Ready"
    )
    return msgspec.structs.replace(
        node,
        metadata=msgspec.structs.replace(
            meta,
            resource_version="",
            annotations=dict.fromkeys(meta.annotations, ""),
        ),
        status=NodeStatus(addresses=node.status.addresses, conditions=ready),
    )
