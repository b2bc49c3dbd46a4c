"""The objects of Kubernetes and Calico that Raven reads and writes, as far as it does.

With `gateways` the only place that knows how their fields are spelled; `objects` has what they share.
"""

from __future__ import annotations

import base64

import msgspec

from raven.kube.objects import Condition, Kind, Meta, Part

# Core: nodes, pods, services, config maps, secrets, events


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


class PodSpec(Part, frozen=True):
    node_name: str = ""


class PodStatus(Part, frozen=True):
    phase: str = ""
    conditions: tuple[Condition, ...] = ()


class Pod(Part, frozen=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


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
    selector: dict[str, str] = msgspec.field(default_factory=dict)


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
    data: dict[str, str] = msgspec.field(default_factory=dict)


class Secret(Part, frozen=True):
    """`data` is base64 as it stands in the API; `secret_bytes` reads it."""

    metadata: Meta
    type: str = ""
    data: dict[str, str] = msgspec.field(default_factory=dict)

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
    topology: dict[str, str] = msgspec.field(default_factory=dict)

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


HOSTNAME_LABEL = "kubernetes.io/hostname"

NODES = Kind("", "v1", "nodes", "Node", Node, namespaced=False)
PODS = Kind("", "v1", "pods", "Pod", Pod)
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
