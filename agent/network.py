"""The agent's end of the packet lane: offers its networks, follows the map, holds its device to the plan.

It needs the gateway only to learn the map. The last one is kept in the state directory, so that packets pass
after a restart while no gateway can be reached. Nothing that goes wrong here leaves `run`; it becomes the
offer's reason or the report's problem, and is tried again.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import trio

from agent import network_map
from agent.hub_choice import HubChoice
from agent.hub_endpoint import NoEndpoint
from agent.hub_path import CLIMB_TRIAL, HubPath
from raven import log
from raven.control.messages import NetworkMap, PacketOffer, PacketReport
from raven.net.end import KEYS_EXPIRE, End, EndOptions, handshake_age, has_expired
from raven.net.evidence import ROUND_TRIP_MAX, Evidence
from raven.net.probe import ProbeError
from raven.status import Lane
from raven.topology.model import Member, probe_address
from raven.topology.plan import plan

if TYPE_CHECKING:
    from raven.net.tunnel import Tunnel

_CHECKS = 3  # times that the hub's keys are looked after when a tunnel is up again
_CHECK_MAX = 1.0  # seconds for the answer, and then for the new handshake to be asked for
_ASKING_MAX = 20.0  # seconds until a hub that is due for a probe has answered it, or has not
TURN = 10.0  # seconds that one way to the hub is tried: two handshake attempts
CUT_OFF_AFTER = 4.0  # seconds from a probe that was not answered, asked twice, until UDP is given up


class AgentNetwork(End):
    """One node's device, and what the gateway is told about it."""

    def __init__(self, options: EndOptions, *, node: str) -> None:
        """ConfigError when a pod CIDR cannot be used."""
        super().__init__(options, log.get("packets"))
        own = self.own_networks
        self._me = Member(name=node, public_key=options.public_key, pod_networks=own)
        self._offer = PacketOffer(
            public_key=options.public_key.to_base64(),
            listen_port=options.listen_port,
            pod_cidrs=[str(network) for network in own],
        )
        self._state_dir = options.state_dir
        self._map = None if self.off else network_map.load(self._state_dir, self._log)
        self._members = network_map.members(self._map, self._me, self._log)
        self._choice = HubChoice()
        self._mapped_by = ""  # the gateway whose map is followed; "" for the kept one
        self._map_changed = trio.Event()
        self._path = HubPath(self._missed)
        self._path_problem = ""
        self._path_doubted = trio.Event()  # another map, or the hub does not answer
        self._changed = trio.Event()
        self._hub_evidence = Evidence(silence_max=ROUND_TRIP_MAX)
        self._greeting = trio.Event()
        self._follow()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the device to the plan until cancelled, then leaves the host as it was.

        Started as soon as the first attempt to bring the device up has ended, well or not.
        """
        await self._rest_if_off(task_status)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_hub)
            nursery.start_soon(self._pass_on_changes)
            nursery.start_soon(self._keep_map)
            nursery.start_soon(self._path.run)
            nursery.start_soon(self._find_hub)
            nursery.start_soon(self._listen)
            await nursery.start(self._lane.run)
            task_status.started()

    def offer(self) -> tuple[PacketOffer | None, str]:
        """`packets` and `no_packets_reason` of this node's AgentHello.

        A device that has worked once keeps its offer through troubles, which `report` tells: a node that left
        the map with every hiccup would change the plans of all others.
        """
        if self.off:
            return None, self.off
        if self._lane.problem and not self._lane.held:
            return None, self._lane.problem
        return msgspec.structs.replace(
            self._offer, probes=self.answers_probes, superframes=list(self.superframes)
        ), ""

    def take_map(self, network: NetworkMap, *, gateway: str = "") -> None:
        """Called with every NetworkMap that the gateway of that name sends. Does not block."""
        if not self.off:
            self._adopt(self._choice.told(gateway, network))

    def gateway_reached(self, gateway: str, tunnel: Tunnel) -> None:
        """Called when there is a tunnel to it, which carries packets where UDP does not pass."""
        self._path.reached(gateway, tunnel)

    def gateway_lost(self, gateway: str) -> None:
        """Called when there is no tunnel to it any more. Its hub stays until it does not answer either."""
        self._choice.lost(gateway)
        self._path.lost(gateway)

    def gateway_broke(self, gateway: str) -> None:
        """Called when its tunnel waits for another transport. Its hub stays as in `gateway_lost`."""
        self._choice.broke(gateway)
        if self._choice.seeking:
            self._lane.look_soon()  # and ask its hub, which may be gone too

    def gateway_returned(self, gateway: str) -> None:
        """Called when its tunnel goes on over another transport."""
        self._path.climb_soon()
        self._adopt(self._choice.returned(gateway))

    def _adopt(self, network: NetworkMap | None) -> None:
        """The map of the gateway chosen replaces the one before; None for no change."""
        if network is None:
            return
        gateway = self._choice.gateway
        if gateway != self._mapped_by:
            self._log.info("packets go through gateway", gateway=gateway, before=self._mapped_by)
            self._hub_evidence = Evidence(silence_max=ROUND_TRIP_MAX)
            self._hub_evidence.came(trio.current_time())
        self._mapped_by = self._path.gateway = gateway
        known = self._map
        if known is not None and (known.nodes, known.problem) == (network.nodes, network.problem):
            return
        self._map = network
        if known is not None and network_map.starts(known) != network_map.starts(network):
            self.greeted()
        self._map_changed.set()
        self._map_changed = trio.Event()
        self._path_doubted.set()
        if network.problem:
            self._log.warning("the gateway does not carry our packets", why=network.problem)
        self._members = network_map.members(network, self._me, self._log)
        self._follow()

    def greeted(self) -> None:
        """Called when a gateway's device may be another than before: a tunnel is up, or it says so."""
        self._greeting.set()
        self._greeting = trio.Event()

    def report(self) -> PacketReport:
        """How this end does, for the gateway's status."""
        return PacketReport(problem="; ".join(self._own_problems()))

    async def changed(self) -> None:
        """Returns when `offer` or `report` say something new, compared with the moment of the call."""
        await self._changed.wait()

    def lane(self) -> Lane:
        """The packet lane between this node and its gateway."""
        if self.off:
            return Lane(state="off", detail=self.off)
        hub = self._hub()
        if self._lane.problem:
            return Lane(state="down", detail=self._lane.problem)
        if self._map is None:
            return Lane(state="starting", detail="no gateway has told the network map yet")
        if hub is None:
            return Lane(state="down", detail=self._map.problem or "the network map has no hub")
        told = self._own_problems()
        peer = self._lane.peers.get(hub.public_key)
        if peer is None:
            return Lane(state="starting", detail="; ".join(told) or "the device is being set up")
        age = handshake_age(peer)
        expired = has_expired(age)
        shown = self._hub_evidence
        if expired and self._path.direct:
            since = "yet" if age is None else f"for {age:.0f} s"
            told.append(f"no WireGuard handshake {since}: do UDP packets reach {self._path.direct}?")
        return Lane(
            state="up" if not expired else "down" if shown.failure else "starting",
            evidence_age_s=shown.age(trio.current_time()),
            evidence_max_s=ROUND_TRIP_MAX + _ASKING_MAX,
            rtt_ms=None if shown.rtt is None else 1e3 * shown.rtt,
            detail="; ".join(told),
            bytes_in=peer.rx_bytes,
            bytes_out=peer.tx_bytes,
            handshake_age_s=age,
            mtu=self._lane.mtu(hub.public_key),
        )

    def problems(self) -> list[str]:
        """Sentences an operator should read: what packets, or some of them, lack."""
        told = [self._map.problem] if self._map is not None and self._map.problem else []
        return [f"packets: {problem}" for problem in (*self._own_problems(), *told)]

    async def ping(self) -> float:
        """Seconds of one round trip to the hub; ProbeError says why there was none."""
        hub = self._hub()
        if hub is None or self.off:
            raise ProbeError(self.lane().detail)
        shown = self._hub_evidence
        try:
            rtt = await self._lane.prober.probe(probe_address(hub.public_key))
        except ProbeError as error:
            shown.was_not(str(error), trio.current_time())
            self._path_doubted.set()
            raise ProbeError("; ".join([str(error), *self._own_problems()])) from error
        shown.was_answered(rtt, trio.current_time())
        peer = self._lane.peers.get(hub.public_key)
        if peer is None or not peer.last_handshake:
            self._lane.look_soon()  # there must have been one by now
        return rtt

    def _own_problems(self) -> list[str]:
        found = [self._lane.problem] if self._lane.problem else self._lane.warnings
        return [*found, self._path_problem] if self._path_problem else list(found)

    def _hub(self) -> Member | None:
        return next((member for member in self._members if member.hub), None)

    def _follow(self) -> None:
        """Called when the map, the hub's address or what our device can do has changed."""
        me = replace(self._me, superframes=self.superframes)
        # A hub has no address until its name is resolved: that of another one would cost a handshake.
        members = [
            replace(member, endpoint=self._path.current if member.endpoint == self._path.text else "")
            if member.hub
            else me
            if member.public_key == me.public_key
            else member
            for member in self._members
        ]
        self._lane.follow(plan(members, me.public_key))

    def _say(self, path_problem: str) -> None:
        if path_problem != self._path_problem:
            self._path_problem = path_problem
            self._log.info("way of the packets", problem=path_problem or None, endpoint=self._path.current)
            self.tell()

    def tell(self) -> None:
        """Whoever waits for `changed` looks again at what this node says of itself."""
        self._changed.set()
        self._changed = trio.Event()

    async def _pass_on_changes(self) -> None:
        while True:
            await self._lane.changed()
            self._follow()
            self.tell()

    async def _keep_map(self) -> None:
        """Writes each new map; of several that come while the disk is busy, the last."""
        kept = self._map
        while True:
            if (newest := self._map) is not kept and newest is not None:
                kept = newest
                await trio.to_thread.run_sync(network_map.keep, self._state_dir, newest, self._log)
            else:
                await self._map_changed.wait()

    async def _find_hub(self) -> None:
        """Keeps the way to the hub: found when the map names it, found again while it is silent."""
        while True:
            self._path_doubted = doubted = trio.Event()
            if (hub := self._hub()) is not None:
                if hub.endpoint != self._path.text or await self._is_silent_still(hub):
                    await self._take_next_way(hub)
                elif self._is_cut_off() and not self._path.relayed and self._path.relay(self._device_port()):
                    await self._take_way(hub)
                elif self._path.climb_due:
                    await self._climb(hub)
            with trio.move_on_after(TURN):
                await doubted.wait()

    def _missed(self) -> None:
        """Called when the gateway says that it hears nothing of our device: we ask it, and see."""
        if not self._path.relayed:
            self._hub_evidence.missed = True
            self._lane.look_soon()

    async def _take_next_way(self, hub: Member) -> None:
        try:
            await self._path.advance(hub.endpoint, self._device_port())
        except NoEndpoint as error:
            self._say(str(error))
        else:
            await self._take_way(hub)

    async def _take_way(self, hub: Member) -> None:
        """Our device follows the path, and the hub's does with the first packet that comes by it: ours, as
        what the hub has to send goes the old way until then.
        """
        told = f"no UDP passes to {self._path.text}: packets go through the tunnel"
        self._say(told if self._path.relayed else "")
        self._lane.reset_endpoint(hub.public_key)
        self._follow()
        if not self._has_met(hub):
            self._lane.rekey(hub.public_key)
            return
        with trio.move_on_after(_CHECK_MAX):
            await self._lane.next_look()
        with suppress(ProbeError):
            await self.ping()

    async def _climb(self, hub: Member) -> None:
        """Sees by one handshake whether UDP passes again."""
        began = time.time()
        self._path.climb()
        self._lane.reset_endpoint(hub.public_key)
        self._follow()
        self._lane.rekey(hub.public_key)
        await trio.sleep(CLIMB_TRIAL)
        self._lane.look_soon()
        await self._lane.next_look()
        peer = self._lane.peers.get(hub.public_key)
        self._path.climbed(peer is not None and peer.last_handshake >= began)
        await self._take_way(hub)

    def _is_cut_off(self) -> bool:
        """Whether the hub has not answered for some time, while its gateway is reached."""
        shown = self._hub_evidence
        return (
            shown.failing_since is not None
            and (shown.missed or trio.current_time() - shown.failing_since >= CUT_OFF_AFTER)
            and not self._choice.seeking
        )

    def _device_port(self) -> int:
        return self._lane.state.listen_port if self._lane.state is not None else 0

    def _has_met(self, hub: Member) -> bool:
        peer = self._lane.peers.get(hub.public_key)
        return peer is not None and peer.last_handshake > 0

    async def _seek_hub(self) -> None:
        """Asks the hub whose gateway is not reached; after some silence another one takes its place."""
        try:
            await self.ping()
        except ProbeError:
            self._lane.look_soon()
            self._adopt(self._choice.unanswered())
        else:
            self._choice.answered()

    async def _is_silent_still(self, hub: Member) -> bool:
        """`_is_silent`, by a look that is not ten seconds old."""
        if not self._is_silent(hub):
            return False
        self._lane.look_soon()
        with trio.move_on_after(_CHECK_MAX):
            await self._lane.next_look()
        return self._is_silent(hub)

    def _is_silent(self, hub: Member) -> bool:
        """Whether another address, or the planned one again, is worth a try."""
        peer = self._lane.peers.get(hub.public_key)
        return peer is not None and time.time() - peer.last_handshake > KEYS_EXPIRE

    async def _check_hub(self) -> None:
        """After each greeting, finds out at once whether the hub still has the keys that we seal with.

        A hub's device that was started anew has none, says nothing, and WireGuard itself waits 15 s.
        """
        while True:
            await self._greeting.wait()
            for _ in range(_CHECKS):
                hub = self._hub()
                if hub is None or not self._has_met(hub):
                    break  # there are no keys yet that could be stale
                try:
                    await self._lane.prober.probe(
                        probe_address(hub.public_key), timeout=_CHECK_MAX, attempts=1
                    )
                    break
                except ProbeError:
                    self._lane.rekey(hub.public_key)
                    with trio.move_on_after(_CHECK_MAX):
                        await self._lane.next_look()

    async def _listen(self) -> None:
        """Takes what the hub sends as evidence, and probes it when that says too little."""
        while True:
            await self._lane.next_look()
            hub = self._hub()
            peer = self._lane.peers.get(hub.public_key) if hub is not None else None
            if peer is None:
                self._hub_evidence.lost_device()
                continue
            self._hub_evidence.looked(peer, handshake_age=handshake_age(peer), now=self._lane.looked)
            if self._choice.seeking:
                await self._seek_hub()
                continue
            if self._hub_evidence.due(trio.current_time()):
                with suppress(ProbeError):
                    await self.ping()
