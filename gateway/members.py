"""Who takes part in the packet lane: nodes offer a key and pod networks, the first to register keeps them.

A node may carry what an operator allowed it or all nodes, and nothing else: otherwise one stolen machine
could draw the packets of another network to itself. Where Kubernetes knows better than the node what it
carries, that counts and nothing of what the node says.

Plain bookkeeping above `raven.topology`; nothing here waits or touches the host. `gateway.network` hands the
plan that follows from the members to its device, and their map to the agents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from raven.config import Address
from raven.control.messages import MapNode, NetworkMap, PacketOffer
from raven.errors import PeerError
from raven.keys import KEY_LEN, PublicKey
from raven.registry.interface import NodeRecord
from raven.topology.model import (
    Claims,
    IPNetwork,
    Member,
    PodRanges,
    parse_pod_networks_untrusted,
    unauthorised,
)
from raven.topology.share import device_of

Assigned = Callable[[str], Sequence[IPNetwork] | None]  # by node; None: it carries what it says
_NO_KEY = PublicKey(bytes(KEY_LEN))


@dataclass(slots=True)
class Members:
    """The hub and its nodes, in the order they came.

    A hub with several devices is several members of the same networks; each node meets one of them.
    """

    hub: Member
    ranges: PodRanges  # what each node may claim
    assigned: Assigned = lambda name: None
    further: tuple[Member, ...] = ()  # the hub's devices after the first
    revision: int = 1  # grows with every change below
    _nodes: dict[str, Member] = field(default_factory=dict)
    _waiting: dict[str, Member] = field(default_factory=dict)  # in conflict; in when the other one leaves
    _refused: dict[str, str] = field(default_factory=dict)  # node: sentence
    _claims: Claims = field(default_factory=Claims)
    _starts: dict[PublicKey, int] = field(default_factory=dict)  # of the hub's devices, after the first
    # The same for all who take part and share a device.
    _told: dict[PublicKey, NetworkMap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._claims.hold(self.hub)
        for device in self.further:
            self._claims.hold(replace(device, pod_networks=()))  # the networks are the hub's, held already

    def load(self, records: Iterable[NodeRecord]) -> None:
        """Takes back what the registry remembers; whoever joined first has the first claim."""
        for record in sorted(records, key=lambda record: record.created):
            if record.public_key is not None:
                self._take(record.name, record.public_key, record.pod_cidrs, probes=False, superframes=())
        self.revision += 1

    def offer(self, name: str, packets: PacketOffer | None) -> str:
        """Takes a node's offer in place of its earlier one; "" or the sentence that says why not.

        None takes the node out, and so does what is refused.
        """
        before = self._nodes.get(name), self._refused.get(name)
        if packets is None:
            self._drop(name)
        else:
            try:
                key = PublicKey.from_base64(packets.public_key)
                self._take(
                    name, key, packets.pod_cidrs, probes=packets.probes, superframes=packets.superframes
                )
            except ValueError as error:
                self._refuse(name, f"node {name} offers no WireGuard public key: {error}")
        if before != (self._nodes.get(name), self._refused.get(name)):
            self._admit_waiting()
            self.revision += 1
        return self._refused.get(name, "")

    def forget(self, name: str) -> None:
        self.offer(name, None)

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, name: str) -> Member | None:
        return self._nodes.get(name)

    def names(self) -> list[str]:
        return list(self._nodes)

    def known(self) -> set[str]:
        """Those who take part, and those who were refused."""
        return {*self._nodes, *self._refused}

    def devices(self) -> list[Member]:
        """The hub's devices, the first one first."""
        return [self.hub, *self.further]

    def device_of(self, name: str) -> Member:
        """The device of the hub that carries the node."""
        if not self.further:
            return self.hub
        key = device_of(name, [device.public_key for device in self.devices()])
        return next(device for device in self.devices() if device.public_key == key)

    def of(self, device: Member) -> list[Member]:
        """Hub first, then the nodes that this device of it carries: the order that its plan is made from."""
        if not self.further:
            return [device, *self._nodes.values()]
        return [device, *(node for name, node in self._nodes.items() if self.device_of(name) is device)]

    def refusal(self, name: str) -> str:
        """Why the node does not take part although it offered; "" otherwise."""
        return self._refused.get(name, "")

    def refusals(self) -> list[str]:
        return list(self._refused.values())

    def map_for(self, name: str) -> NetworkMap:
        """What the node needs for its plan; to one that does not take part only why."""
        if name not in self._nodes:
            problem = self.refusal(name) or f"node {name} has offered no packets"
            return NetworkMap(revision=self.revision, nodes=[], problem=problem)
        device = self.device_of(name)
        told = self._told.get(device.public_key)
        if told is None or told.revision != self.revision:
            starts = self._starts.get(device.public_key, 0)
            nodes = [_map_node(device, starts), *map(_map_node, self._nodes.values())]
            if told is not None and told.nodes == nodes:  # somebody's refusal has changed
                nodes = told.nodes
            told = self._told[device.public_key] = NetworkMap(revision=self.revision, nodes=nodes)
        return told

    def describe_hub(self, *, probes: bool, superframes: Iterable[str]) -> None:
        """Called when it is known what the hub's devices can do, in the words of `Member`."""
        able = tuple(superframes)
        hub = replace(self.hub, probes=probes, superframes=able)
        if hub != self.hub:
            self.hub = hub
            self.further = tuple(replace(one, probes=probes, superframes=able) for one in self.further)
            self.revision += 1

    def dial_hub_at(self, host: str) -> None:
        """Called when it is known where agents dial the hub's devices; their ports stay as they are."""
        hub, *further = (
            replace(one, endpoint=str(Address(host, int(one.endpoint.rpartition(":")[2]))))
            for one in self.devices()
        )
        if hub != self.hub:
            self.hub, self.further = hub, tuple(further)
            self.revision += 1

    def device_started(self, key: PublicKey) -> None:
        """Called when that device of the hub's was started anew: nodes are told, as their keys are stale."""
        self._starts[key] = self._starts.get(key, 0) + 1
        self.revision += 1

    def _take(
        self,
        name: str,
        key: PublicKey,
        pod_cidrs: Iterable[str],
        *,
        probes: bool,
        superframes: Iterable[str],
    ) -> None:
        """ValueError is not among what it raises: what is wrong becomes a refusal."""
        given = self.assigned(name)
        try:
            member = Member(
                name=name,
                public_key=key,
                pod_networks=parse_pod_networks_untrusted(list(pod_cidrs)) if given is None else tuple(given),
                probes=probes,
                superframes=tuple(superframes),
            )
        except PeerError as error:
            self._refuse(name, f"{error} (offered by node {name})")
            return
        if problem := self._unauthorised(member):
            self._refuse(name, problem)
            return
        if member == self._nodes.get(name):
            return
        self._drop(name)
        if key == _NO_KEY:
            self._refuse(name, f"node {name} offers the key of all zeros, which is none")
        elif problem := self._claims.conflict(member):
            self._refuse(name, problem)
            self._waiting[name] = member
        else:
            self._claims.hold(member)
            self._nodes[name] = member

    def _unauthorised(self, member: Member) -> str:
        given = self.assigned(member.name)
        if given is not None and tuple(given) == member.pod_networks:
            return ""
        return unauthorised(member.name, member.pod_networks, self.ranges(member.name))

    def _refuse(self, name: str, problem: str) -> None:
        self._drop(name)
        self._refused[name] = problem

    def _drop(self, name: str) -> None:
        if (member := self._nodes.pop(name, None)) is not None:
            self._claims.release(member)
        self._waiting.pop(name, None)
        self._refused.pop(name, None)

    def _admit_waiting(self) -> None:
        """Called after somebody left or changed: who was in conflict with that one may fit now."""
        for name, member in list(self._waiting.items()):
            if self._unauthorised(member):
                continue  # its next offer tells
            if problem := self._claims.conflict(member):
                self._refused[name] = problem
            else:
                self._drop(name)
                self._claims.hold(member)
                self._nodes[name] = member


def _map_node(member: Member, starts: int = 0) -> MapNode:
    return MapNode(
        name=member.name,
        public_key=member.public_key.to_base64(),
        endpoint=member.endpoint,
        pod_cidrs=[str(network) for network in member.pod_networks],
        hub=member.hub,
        probes=member.probes,
        superframes=list(member.superframes),
        starts=starts,
    )
