"""The gateway's end of the packet lane: who takes part, what agents are told, and the gateway's own device.

Above: the app, which passes on what agents offer and sends them their maps, and the status. Below: `members`
and `raven.topology` decide, `raven.net.packets` holds the device and the host's routes to the plan. Nothing
that goes wrong here leaves `run`; it becomes a sentence in the status, and is tried again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

import trio

from gateway.members import Assigned, Members
from raven import log
from raven.control.messages import NetworkMap, PacketOffer
from raven.keys import PublicKey
from raven.net.end import End, EndOptions, handshake_age, has_expired
from raven.net.evidence import Evidence
from raven.net.packets import PacketLane
from raven.net.probe import ProbeError
from raven.net.relay import Relay, is_relay
from raven.registry.interface import NodeRecord
from raven.status import Lane
from raven.topology.model import Member, PodRanges, probe_address
from raven.topology.plan import plan
from raven.wg.configuration import PeerState

_TICK = 1.0  # seconds; probes that are due start at the next one
# Changes of the map gather before they are told, as each goes to every node: seconds, and seconds a node.
_SETTLE, _SETTLE_EACH = 0.2, 0.001
_REST = 4  # times what a plan took (0.1 s for 5000 nodes), so that planning takes a fifth of a core at most


class GatewayNetwork(End):
    """The members of the packet lane, the maps agents need, and the hub's device."""

    def __init__(
        self,
        options: EndOptions,
        *,
        name: str,
        endpoint: str,
        pod_ranges: PodRanges,
        assigned: Assigned = lambda node: None,
        further: Sequence[tuple[EndOptions, str]] = (),
    ) -> None:
        """`endpoint` is HOST:PORT as agents dial it; `assigned` what the cluster has a node carry;
        `further` are devices beside the first, with their endpoints.

        ConfigError when a pod CIDR cannot be used.
        """
        super().__init__(options, log.get("packets"))

        def member(of: EndOptions, endpoint: str, name: str) -> Member:
            # With a slash, which no node's name has: gateway and node may be the same host.
            return Member(
                name=f"gateway/{name}",
                public_key=of.public_key,
                endpoint=endpoint,
                pod_networks=self.own_networks,
                hub=True,
            )

        devices = tuple(
            member(of, endpoint, f"{name}/{number}") for number, (of, endpoint) in enumerate(further, 1)
        )
        self._members = Members(member(options, endpoint, name), pod_ranges, assigned, further=devices)
        self._lanes = {options.public_key: self._lane}
        self._lanes |= {of.public_key: self._make_lane(of) for of, _ in further}
        self._evidence: dict[PublicKey, Evidence] = {}
        self._map_changed = trio.Event()
        self._relay_drops: Counter[str] = Counter()
        self.tell_missed: Callable[[str], None] = lambda node: None  # called while a node does not answer

    def load(self, nodes: Iterable[NodeRecord]) -> None:
        """Takes back the members the registry remembers, in the order they joined; before `run`.

        So packets of nodes that have not dialled in again yet pass as soon as the device is up.
        """
        if not self.off:
            self._members.load(nodes)
            self._plan()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the device to the plan and probes the nodes until cancelled, then leaves the host as it was.

        Started as soon as the first attempt to bring the device up has ended, well or not.
        """
        await self._rest_if_off(task_status)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_planning)
            async with trio.open_nursery() as starting:
                for lane in self._lanes.values():
                    starting.start_soon(nursery.start, lane.run)
            nursery.start_soon(self._describe_hub)
            for key, lane in self._lanes.items():
                nursery.start_soon(self._listen, key, lane)
            task_status.started()
            nursery.start_soon(self._probe_all)

    def dial_at(self, host: str) -> None:
        """Called when it is known at which address datagrams reach this gateway; its agents hear of it."""
        before = self._members.revision
        self._members.dial_hub_at(host)
        if self._members.revision != before:
            self._follow()

    def offer(self, node: str, packets: PacketOffer | None) -> str:
        """Takes what a node's AgentHello brings; "" or the sentence that says why it cannot take part.

        None takes the node out. What is refused takes the node out as well, so the caller remembers key and
        pod networks in the registry only when the answer is "".
        """
        if self.off:
            return "" if packets is None else self._off_sentence()
        before = self._members.revision
        problem = self._members.offer(node, packets)
        if (member := self._members.get(node)) is not None:
            self._shown(member).came(trio.current_time())
        if before != self._members.revision:
            if problem:
                self._log.warning("packet lane refused", node=node, why=problem)
            else:
                self._log.info("packet lane left" if packets is None else "packet lane joined", node=node)
            self._follow()
        return problem

    def forget(self, node: str) -> None:
        """Called when a node was removed from the registry."""
        self.offer(node, None)

    def members(self) -> list[str]:
        """The nodes that take part."""
        return self._members.names()

    def keep_only(self, nodes: Collection[str]) -> None:
        """Called when nodes may have lost their right to packets; `nodes` are those that have it."""
        for node in self._members.known() - set(nodes):
            self.forget(node)

    @property
    def revision(self) -> int:
        """Grows with every change of what `map_for` gives."""
        return self._members.revision

    def map_for(self, node: str) -> NetworkMap:
        """What the node needs to know now; no devices, and a problem, when its offer was refused."""
        if self.off:
            return NetworkMap(revision=self.revision, nodes=[], problem=self._off_sentence())
        return self._members.map_for(node)

    async def wait_changed(self, revision: int) -> None:
        """Returns when `revision` is no longer the newest; a burst of changes ends the wait once."""
        while self.revision == revision:
            await self._map_changed.wait()
        await trio.sleep(_SETTLE + _SETTLE_EACH * len(self._members))

    def lane(self) -> Lane:
        """The gateway's own device, or all of them as one."""
        if self.off:
            return Lane(state="off", detail=self.off)
        lanes = list(self._lanes.values())
        if problem := "; ".join(lane.problem for lane in lanes if lane.problem):
            return Lane(state="down", detail=problem)
        states = [lane.state for lane in lanes if lane.state is not None]
        if len(states) < len(lanes):
            return Lane(state="starting", detail="the device is being set up")
        peers = [peer for state in states for peer in state.peers]
        ages = [age for peer in peers if (age := handshake_age(peer)) is not None]
        return Lane(
            state="up",
            evidence_age_s=trio.current_time() - min(lane.looked for lane in lanes),
            detail="; ".join(warning for lane in lanes for warning in lane.warnings),
            bytes_in=sum(peer.rx_bytes for peer in peers),
            bytes_out=sum(peer.tx_bytes for peer in peers),
            handshake_age_s=min(ages, default=None),
        )

    def _lane_of(self, node: str) -> PacketLane:
        """The lane of the device that carries the node."""
        return self._lanes[self._members.device_of(node).public_key]

    def node_lane(self, node: str) -> Lane:
        """The packet lane between the gateway and the node."""
        if self.off:
            return Lane(state="off", detail=self._off_sentence())
        member = self._members.get(node)
        if member is None:
            refusal = self._members.refusal(node)
            return Lane(state="down" if refusal else "off", detail=refusal or "the node brings no packets")
        lane = self._lane_of(node)
        if lane.problem:
            return Lane(state="down", detail=f"the gateway has no device: {lane.problem}")
        peer = lane.peers.get(member.public_key)
        if peer is None:
            return Lane(state="starting", detail="the gateway's device is being set up")
        shown = self._shown(member)
        handshake = handshake_age(peer)
        return Lane(
            state="down" if shown.failure and has_expired(handshake) else "up",
            evidence_age_s=None if shown.answered is None else shown.age(trio.current_time()),
            rtt_ms=None if shown.rtt is None else 1e3 * shown.rtt,
            detail=self._why_silent(node, shown, handshake) or _way(peer),
            bytes_in=peer.rx_bytes,
            bytes_out=peer.tx_bytes,
            handshake_age_s=handshake,
            mtu=lane.mtu(member.public_key),
        )

    def problems(self) -> list[str]:
        """Sentences an operator should read: what packets, or some of them, lack."""
        own = [
            told
            for lane in self._lanes.values()
            for told in ([lane.problem] if lane.problem else lane.warnings)
        ]
        return [f"packets: {problem}" for problem in (*own, *self._members.refusals())]

    async def ping(self, node: str) -> float:
        """Seconds of one round trip through the packet lane; ProbeError says why there was none."""
        member = self._members.get(node)
        if member is None or self.off:
            raise ProbeError(self.node_lane(node).detail)
        try:
            return await self._probe(member)
        except ProbeError as error:
            # A host without IPv6 has no probes at all: say that rather than what the socket said of it.
            lane = self._lane_of(node)
            raise ProbeError("; ".join([lane.problem or str(error), *lane.warnings])) from error

    def counters(self) -> Mapping[str, int]:
        """What the gateway's devices dropped, by reason."""
        total: Counter[str] = Counter()
        for lane in self._lanes.values():
            total.update(lane.counters)
            total["bad_probe"] += lane.prober.dropped
        return total + self._relay_drops

    def relay(self, node: str) -> Relay | None:
        """A new way from the node's tunnel to the device that carries it; None, and counted, without one."""
        state = self._lane_of(node).state if self._members.get(node) is not None else None
        if state is not None and state.listen_port:
            with suppress(OSError):  # no descriptor is left; the node's device tries again
                return Relay(state.listen_port, self._relay_drops)
        self._relay_drops["relay-no-device"] += 1
        return None

    def _off_sentence(self) -> str:
        return f"the gateway carries no packets: {self.off}"

    def _follow(self) -> None:
        """Called after the members have changed: agents and the device follow once a burst is over."""
        self._map_changed.set()
        self._map_changed = trio.Event()

    async def _keep_planning(self) -> None:
        """Plans at once, so that the hub knows a node before that node is told of the hub; then rests."""
        planned = 0
        while True:
            changed = self._map_changed
            if planned == self.revision:
                await changed.wait()
            began = trio.current_time()
            planned = self.revision
            self._plan()
            nodes = [self._members.get(name) for name in self._members.names()]
            self._evidence = {node.public_key: self._shown(node) for node in nodes if node is not None}
            await trio.sleep(_REST * (trio.current_time() - began))

    def _plan(self) -> None:
        for device in self._members.devices():
            alone = len(self._lanes) == 1
            self._lanes[device.public_key].follow(
                plan(self._members.of(device), device.public_key, alone=alone)
            )

    async def _describe_hub(self) -> None:
        """Tells the agents what our device can do, once that is known and whenever it changes."""
        while True:
            before = self._members.revision
            if self._lane.state is not None:
                self._members.describe_hub(probes=self.answers_probes, superframes=self.superframes)
            if self._members.revision != before:
                self._follow()
            await self._lane.next_look()

    def _shown(self, member: Member) -> Evidence:
        return self._evidence.setdefault(member.public_key, Evidence(spread=random.uniform(0.9, 1.1)))

    async def _listen(self, key: PublicKey, lane: PacketLane) -> None:
        """Takes what the nodes send as evidence, and tells them of a device that was started anew."""
        gone = False
        while True:
            await lane.next_look()
            if gone and lane.state is not None:
                self._members.device_started(key)
                self._follow()
            gone = lane.state is None
            for name in self._members.names():
                member = self._members.get(name)
                if member is None or self._lane_of(name) is not lane:
                    continue
                shown, peer = self._shown(member), lane.peers.get(member.public_key)
                if peer is None:
                    shown.lost_device()
                else:
                    shown.looked(peer, handshake_age=handshake_age(peer), now=lane.looked)

    async def _probe_all(self) -> None:
        """Asks the nodes that have not proved of themselves that they are there."""
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                for name in self._members.names():
                    member = self._members.get(name)
                    if member is None:
                        continue
                    lane, shown = self._lane_of(name), self._shown(member)
                    if shown.due(now) and member.public_key in lane.peers:
                        nursery.start_soon(self._probe_quietly, member)
                await trio.sleep(_TICK)

    async def _probe_quietly(self, member: Member) -> None:
        try:
            await self._probe(member)
        except ProbeError:
            return  # recorded; the status tells

    async def _probe(self, member: Member) -> float:
        """A round trip, kept as evidence."""
        lane, shown = self._lane_of(member.name), self._shown(member)
        shown.asking = True
        failed = shown.failure
        try:
            rtt = await lane.prober.probe(probe_address(member.public_key))
        except ProbeError as error:
            if not failed and shown.answered is not None:
                self._log.warning("packets stopped", node=member.name, why=str(error))
            shown.was_not(str(error), trio.current_time())
            self.tell_missed(member.name)
            raise
        else:
            if failed or shown.answered is None:
                self._log.info("packets pass", node=member.name)
            shown.was_answered(rtt, trio.current_time())
            peer = lane.peers.get(member.public_key)
            if peer is None or not peer.last_handshake:
                lane.look_soon()  # there must have been one by now
            return rtt
        finally:
            shown.asking = False

    def _why_silent(self, node: str, shown: Evidence, handshake: float | None) -> str:
        if not shown.failure:
            return ""
        if handshake is None:
            port = self._members.device_of(node).endpoint
            return f"no WireGuard handshake yet: do the node's UDP packets reach {port}?"
        return f"{shown.failure}; the last WireGuard handshake was {handshake:.0f} s ago"


def _way(peer: PeerState) -> str:
    return "through the tunnel: no UDP of the node arrives" if is_relay(peer.endpoint) else ""
