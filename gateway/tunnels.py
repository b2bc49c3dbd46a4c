"""The tunnels the gateway holds now, by node name: who is connected, who is not and since when.

`gateway.tunnel_server` adds and removes; O&M looks a node up and opens streams; the packet lane reads what
each agent offered and sends it maps. Nothing here dials, authenticates or decides which of two tunnels is
right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from raven.control.messages import (
    AgentHello,
    GatewayList,
    Message,
    NetworkMap,
    OpenRequest,
    PacketReport,
    encode,
)
from raven.mux.codes import Priority
from raven.net.relay import MISSED_FLOW
from raven.net.tunnel import Tunnel, TunnelLost

RECONNECT_MAX = 5.0  # seconds a request waits for a node that is coming back; most are back in less than two


@dataclass(frozen=True, slots=True)
class Offline:
    """A node that has joined and has no tunnel now."""

    since: float | None  # wall clock, Unix seconds, when it was last heard; None: it never connected


class AgentTunnel(Protocol):
    """What O&M needs of a connected node."""

    @property
    def node(self) -> str: ...

    @property
    def software(self) -> str: ...

    @property
    def pod_cidrs(self) -> Sequence[str]: ...

    async def open_stream(self, request: OpenRequest, priority: Priority) -> trio.abc.HalfCloseableStream:
        """A stream whose other end the agent has connected to the request's target.

        Raises StreamRefused with the agent's code and sentence, or TunnelLost.
        """
        ...


class Tunnels(Protocol):
    """What O&M needs of the table."""

    def lookup(self, name: str) -> AgentTunnel | Offline | None:
        """The node's tunnel, or since when it has none; None for a name that never joined."""
        ...

    def nodes_at(self, address: str) -> Sequence[str]:
        """The names of the nodes with this address of their own, connected or not."""
        ...

    def connected(self) -> Sequence[AgentTunnel]:
        """Every connected node, in the order of names."""
        ...


@dataclass(eq=False, slots=True)
class NodeTunnel:
    """One agent's live tunnel, from its hello to its end."""

    node: str
    address: str  # the agent's address as the gateway sees it, for people
    tunnel: Tunnel
    hello: AgentHello  # the newest one
    since: float  # wall clock, Unix seconds
    serial: str = ""  # of the certificate it came with, or renewed since
    expires: float = math.inf  # Unix seconds; of that certificate
    report: PacketReport | None = None  # the newest word of the agent about its end of the packet lane
    gateways_told: GatewayList | None = None  # what the agent was told last
    map_told: NetworkMap | None = None

    async def open_stream(self, request: OpenRequest, priority: Priority) -> trio.abc.HalfCloseableStream:
        """As `AgentTunnel` promises."""
        if self.tunnel.suspended_since is not None:
            await self._reconnected()
        return await self.tunnel.open_stream(encode(request), priority=priority)

    async def _reconnected(self) -> None:
        """Until the node's tunnel goes on; TunnelLost "reconnecting" when that takes too long."""
        with trio.move_on_after(RECONNECT_MAX):
            while self.tunnel.suspended_since is not None and self.tunnel.lost is None:
                await self.tunnel.news.wait()
        if (since := self.tunnel.suspended_since) is not None and self.tunnel.lost is None:
            gap = trio.current_time() - since
            raise TunnelLost(
                "reconnecting",
                f"node {self.node} lost its connection {gap:.0f} s ago and is not back yet; its streams wait "
                "for it, so ask again in a moment",
            )

    @property
    def software(self) -> str:
        return self.hello.software

    @property
    def pod_cidrs(self) -> Sequence[str]:
        """What the node says; whether the packet lane takes it is the map's business."""
        return self.hello.packets.pod_cidrs if self.hello.packets is not None else []

    async def send(self, message: Message) -> None:
        """Queues a control message for the agent; raises TunnelLost."""
        await self.tunnel.send_control(encode(message))

    def tell_missed(self) -> None:
        """Lets the node know that nothing is heard of its device, which may have no other way to learn it."""
        self.tunnel.send_datagrams(MISSED_FLOW, segment_size=1, data=b"\0")

    def evidence_age(self) -> float:
        """Seconds since the agent last proved that it is there."""
        return max(0.0, trio.current_time() - self.tunnel.last_heard)


class TunnelTable:
    """The `Tunnels` of a gateway.

    `last_seen` answers for nodes without a tunnel: the wall clock when they were last heard, None when they
    never were; it raises KeyError for a name that never joined. `nodes_at` answers for all that ever joined:
    a request for an address of two nodes must not reach one of them because the other is away.
    """

    def __init__(
        self,
        last_seen: Callable[[str], float | None],
        nodes_at: Callable[[str], Sequence[str]] = lambda address: (),
    ) -> None:
        self._last_seen = last_seen
        self._nodes_at = nodes_at
        self._live: dict[str, NodeTunnel] = {}

    def lookup(self, name: str) -> NodeTunnel | Offline | None:
        if (live := self._live.get(name)) is not None:
            return live
        try:
            return Offline(self._last_seen(name))
        except KeyError:
            return None

    def nodes_at(self, address: str) -> Sequence[str]:
        return self._nodes_at(address)

    def live(self, name: str) -> NodeTunnel | None:
        return self._live.get(name)

    def connected(self) -> Sequence[NodeTunnel]:
        return [self._live[name] for name in sorted(self._live)]

    def add(self, live: NodeTunnel) -> None:
        assert live.node not in self._live, "the tunnel server ends the old tunnel before it adds the new one"
        self._live[live.node] = live

    def remove(self, live: NodeTunnel) -> None:
        """Forgets the tunnel; nothing happens when a newer one has taken its place."""
        if self._live.get(live.node) is live:
            del self._live[live.node]
