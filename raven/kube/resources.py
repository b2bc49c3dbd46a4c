"""The Kubernetes objects Raven reads and writes: the only place that knows how their fields are spelled.

Each struct holds the fields that we use, and nothing else of the object; so caches stay small. What we do not
know survives because an object that exists is only ever changed by the merge patch between two structs
(`patch_between`), never sent whole. Unknown fields, kinds of a newer version and nulls are read over.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec

JSON = dict[str, Any]


class Part(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True, frozen=True):
    """What all objects here and their parts share."""


class OwnerReference(Part, frozen=True):
    api_version: str
    kind: str
    name: str
    uid: str


class Meta(Part, frozen=True):
    name: str = ""
    namespace: str = ""
    generate_name: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def key(self) -> str:
        """NAMESPACE/NAME, or NAME where there are no namespaces."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Resource(Protocol):
    """Any object with metadata."""

    @property
    def metadata(self) -> Meta: ...


T = TypeVar("T", bound=Resource)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of object in one version of its API."""

    group: str  # "" for the core group
    version: str
    plural: str
    kind: str
    type: type[T]
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of the collection, of one object, or of its subresource."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            assert self.namespaced, self.plural
            parts += ["namespaces", namespace]
        parts += [self.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return "/" + "/".join(parts)

    def encode(self, obj: T) -> bytes:
        """The object as it is created."""
        body: JSON = {"apiVersion": self.api_version, "kind": self.kind, **msgspec.to_builtins(obj)}
        return msgspec.json.encode(body)


class ListMeta(Part, frozen=True):
    resource_version: str = ""
    next_page: str = msgspec.field(default="", name="continue")


class Condition(Part, frozen=True):
    """A condition of a status; `Node` has some without a reason."""

    type: str
    status: str  # True, False or Unknown
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    observed_generation: int = 0


# Core: nodes, services, config maps, secrets, events


class NodeSpec(Part, frozen=True):
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = msgspec.field(default=(), name="podCIDRs")


class NodeAddress(Part, frozen=True):
    type: str  # InternalIP, ExternalIP, Hostname, ...
    address: str


class NodeStatus(Part, frozen=True):
    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Node(Part, frozen=True):
    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def is_ready(self) -> bool:
        return any(one.type == "Ready" and one.status == "True" for one in self.status.conditions)


class ServicePort(Part, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str = 0
    node_port: int = 0


class ServiceSpec(Part, frozen=True):
    type: str = ""
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    external_traffic_policy: str = ""
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}


class Ingress(Part, frozen=True):
    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Part, frozen=True):
    ingress: tuple[Ingress, ...] = ()


class ServiceStatus(Part, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Part, frozen=True):
    metadata: Meta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class ConfigMap(Part, frozen=True):
    metadata: Meta
    data: dict[str, str] = {}


class Secret(Part, frozen=True):
    """`data` is base64 as it stands in the API; `secret_bytes` reads it."""

    metadata: Meta
    type: str = ""
    data: dict[str, str] = {}

    def secret_bytes(self, key: str) -> bytes | None:
        """The value under `key`; None where there is none, or it is no base64."""
        try:
            return base64.b64decode(self.data[key], validate=True) if key in self.data else None
        except ValueError:
            return None

    def secret_text(self, key: str) -> str:
        """The same as text; empty where there is none."""
        return (self.secret_bytes(key) or b"").decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"Secret({self.metadata.key}, keys {sorted(self.data)})"


def secret_data(values: dict[str, str | bytes]) -> dict[str, str]:
    """`data` of a Secret that holds `values`."""
    return {
        key: base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode("ascii")
        for key, value in values.items()
    }


class ObjectReference(Part, frozen=True):
    kind: str
    name: str
    api_version: str = ""
    namespace: str = ""
    uid: str = ""


class EventSource(Part, frozen=True):
    component: str = ""


class Event(Part, frozen=True):
    metadata: Meta
    involved_object: ObjectReference
    reason: str
    message: str
    type: str  # Normal or Warning
    source: EventSource = EventSource()
    count: int = 0
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    reporting_component: str = ""
    reporting_instance: str = ""


# Coordination


class LeaseSpec(Part, frozen=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Part, frozen=True):
    metadata: Meta
    spec: LeaseSpec = LeaseSpec()


# Discovery: v1 and v1beta1 of the slices


class SlicePort(Part, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"


class EndpointConditions(Part, frozen=True):
    ready: bool | None = None


class SliceEndpoint(Part, frozen=True):
    """An endpoint of either version: v1 has `nodeName`, v1beta1 the node in its topology."""

    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    node_name: str = ""
    topology: dict[str, str] = {}

    @property
    def node(self) -> str:
        return self.node_name or self.topology.get(HOSTNAME_LABEL, "")


class EndpointSlice(Part, frozen=True):
    metadata: Meta
    address_type: str
    endpoints: tuple[SliceEndpoint, ...] = ()  # null where nobody answers
    ports: tuple[SlicePort, ...] = ()


# Certificates


class CertificateSigningRequestSpec(Part, frozen=True):
    request: str  # PEM in base64
    signer_name: str
    usages: tuple[str, ...]
    username: str = ""
    groups: tuple[str, ...] = ()
    expiration_seconds: int | None = None


class CertificateSigningRequestStatus(Part, frozen=True):
    conditions: tuple[Condition, ...] = ()
    certificate: str = ""  # PEM in base64


class CertificateSigningRequest(Part, frozen=True):
    metadata: Meta
    spec: CertificateSigningRequestSpec
    status: CertificateSigningRequestStatus = CertificateSigningRequestStatus()

    def is_approved(self) -> bool:
        return any(one.type == "Approved" and one.status == "True" for one in self.status.conditions)

    def is_denied(self) -> bool:
        return any(one.type in ("Denied", "Failed") for one in self.status.conditions)


# Calico


class BlockAffinitySpec(Part, frozen=True):
    state: str = ""
    node: str = ""
    cidr: str = ""
    deleted: str = "false"


class BlockAffinity(Part, frozen=True):
    metadata: Meta
    spec: BlockAffinitySpec = BlockAffinitySpec()


# Raven's own


class Endpoint(Part, frozen=True):
    """One way in or out of a site; the same shape in spec and status."""

    node_name: str
    type: str = ""  # proxy or tunnel; v1alpha1 has none
    port: int = 0  # 0: the default of its type
    under_nat: bool = msgspec.field(default=False, name="underNAT")
    nat_type: str = msgspec.field(default="", name="natType")
    public_ip: str = msgspec.field(default="", name="publicIP")
    public_port: int = 0
    config: dict[str, str] = {}


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
HOSTNAME_LABEL = "kubernetes.io/hostname"

NODES = Kind("", "v1", "nodes", "Node", Node, namespaced=False)
SERVICES = Kind("", "v1", "services", "Service", Service)
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap", ConfigMap)
SECRETS = Kind("", "v1", "secrets", "Secret", Secret)
EVENTS = Kind("", "v1", "events", "Event", Event)
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease", Lease)
SLICES = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", EndpointSlice)
SLICES_V1BETA1 = Kind("discovery.k8s.io", "v1beta1", "endpointslices", "EndpointSlice", EndpointSlice)
CERTIFICATE_REQUESTS = Kind(
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    CertificateSigningRequest,
    namespaced=False,
)
BLOCK_AFFINITIES = Kind(
    "crd.projectcalico.org", "v1", "blockaffinities", "BlockAffinity", BlockAffinity, namespaced=False
)
GATEWAYS = Kind(GROUP, "v1beta1", "gateways", "Gateway", Gateway, namespaced=False)
GATEWAYS_V1ALPHA1 = Kind(GROUP, "v1alpha1", "gateways", "Gateway", Gateway, namespaced=False)


def decode_untrusted(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """The object in `data`; msgspec.DecodeError when it lacks what we cannot do without.

    An explicit null, which Go writes for an empty list, means the same as a missing field.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), kind)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def patch_between(old: T, new: T) -> JSON:
    """The JSON merge patch (RFC 7396) that makes `old` into `new`; empty when there is nothing to do.

    It names `old`'s resource version, so that a writer who was faster is never overwritten.
    """
    patch: JSON = _diff(msgspec.to_builtins(old), msgspec.to_builtins(new))
    if patch and old.metadata.resource_version:
        patch.setdefault("metadata", {})["resourceVersion"] = old.metadata.resource_version
    return patch


def _diff(old: JSON, new: JSON) -> JSON:
    patch: JSON = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := _diff(before, value):
                patch[key] = inner
        elif value != before:
            patch[key] = value
    return patch


def timestamp(moment: float, *, micro: bool = False) -> str:
    """Unix seconds in the API's spelling: whole seconds, or microseconds where it wants them."""
    return datetime.fromtimestamp(moment, UTC).strftime(
        "%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ"
    )


def moment(text: str | None) -> float | None:
    """The Unix seconds of a timestamp; None for none and for what is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
