"""Tells the agents what changes under them: which gateways there are, and the map of the packet lane.

Each news is encoded once and goes to those alone who do not have it. Many changes at once, as when a
thousand agents come back, become few: after a round the next one waits for as long as the bytes of the last
are worth. A tunnel that takes its news slowly holds up nobody, and gets the newest when it is ready.
"""

from __future__ import annotations

import trio

from gateway.network import GatewayNetwork
from gateway.tunnels import NodeTunnel, TunnelTable
from raven.control.messages import GatewayList, NetworkMap, encode
from raven.net.tunnel import TunnelLost

RATE = 10e6  # bytes a second of maps, over all tunnels: a fifth of a core, and a tenth of a gigabit uplink
REST_MIN = 0.05  # seconds
REST_MAX = 10.0  # seconds between two rounds of maps, however large they are


class Broadcast:
    """Keeps every tunnel of the `table` told, while `run` runs."""

    def __init__(self, table: TunnelTable, network: GatewayNetwork, gateways: GatewayList) -> None:
        self._table = table
        self._network = network
        self._gateways = gateways, encode(gateways)
        self._map: tuple[NetworkMap | None, bytes] = None, b""
        self._telling: set[NodeTunnel] = set()
        self._due: set[NodeTunnel] = set()  # told as soon as `run` comes to it
        self._work = trio.Event()
        self._sent = 0  # bytes of maps, ever

    def connected(self, live: NodeTunnel) -> None:
        """Called when a tunnel has been greeted; it is told everything. Does not block."""
        self._due.add(live)
        self._work.set()

    def list_gateways(self, gateways: GatewayList) -> None:
        """Called when there are other gateways, or other addresses, than before. Does not block."""
        if gateways != self._gateways[0]:
            self._gateways = gateways, encode(gateways)
            self._due |= set(self._table.connected())
            self._work.set()

    @property
    def gateways(self) -> GatewayList:
        return self._gateways[0]

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_maps)
            while True:
                await self._work.wait()
                self._work = trio.Event()
                for live in self._due - self._telling:  # who is being told hears all there is
                    self._telling.add(live)
                    nursery.start_soon(self._tell, live)
                self._due.clear()

    async def _follow_maps(self) -> None:
        revision = self._network.revision
        while True:
            await self._network.wait_changed(revision)
            revision, before = self._network.revision, self._sent
            self._due |= set(self._table.connected())
            self._work.set()
            await trio.sleep(REST_MIN)  # most of the round is sent, or as much as the slow ones take
            await trio.sleep(min(REST_MAX, (self._sent - before) / RATE))

    async def _tell(self, live: NodeTunnel) -> None:
        try:
            while (news := self._news(live)) is not None:
                await live.tunnel.send_control(news)
        except TunnelLost:
            pass  # its server finds out as well
        finally:
            self._telling.discard(live)

    def _news(self, live: NodeTunnel) -> bytes | None:
        """The next message for this tunnel, which counts as told from now on."""
        gateways, encoded = self._gateways
        if live.gateways_told is not gateways:
            live.gateways_told = gateways
            return encoded
        if live.hello.packets is None:
            return None
        told = self._network.map_for(live.node)
        if _same(live.map_told, told):
            return None
        live.map_told = told
        if told is not self._map[0]:
            self._map = told, encode(told)
        self._sent += len(self._map[1])
        return self._map[1]


def _same(one: NetworkMap | None, other: NetworkMap) -> bool:
    """Whether both tell an agent the same; their revisions do not matter to it."""
    if one is None or one.problem != other.problem:
        return False
    return one.nodes is other.nodes or one.nodes == other.nodes
