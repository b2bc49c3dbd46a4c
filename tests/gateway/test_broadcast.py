"""Who is told what and how often, on tunnels over memory streams."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from gateway.broadcast import Broadcast
from gateway.network import GatewayNetwork
from gateway.tunnels import NodeTunnel, TunnelTable
from raven.control.messages import (
    AgentHello,
    ControlMessage,
    GatewayList,
    KnownGateway,
    NetworkMap,
    PacketOffer,
    decode_control_untrusted,
)
from raven.keys import PrivateKey, PublicKey
from raven.net.end import EndOptions
from raven.net.tunnel import Tunnel
from tests.topology.ranges import ANY_RANGE

ONE = GatewayList(revision=1, gateways=[KnownGateway(name="gw-1", address="gw-1:443")])
TWO = GatewayList(revision=2, gateways=[*ONE.gateways, KnownGateway(name="gw-2", address="gw-2:443")])


def offer(number: int, *cidrs: str) -> PacketOffer:
    key = PublicKey(bytes([number]) * 32)
    return PacketOffer(public_key=key.to_base64(), listen_port=0, pod_cidrs=list(cidrs))


class Cloud:
    """A gateway's table, its network without a device, and agents that only listen."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.network = GatewayNetwork(
            EndOptions(
                private_key=PrivateKey.clamped(bytes(range(32))),
                public_key=PublicKey(bytes([200]) * 32),
                listen_port=4500,
                pod_cidrs=[],
                interface="none",
                state_dir=directory,
            ),
            name="gw-1",
            endpoint="192.0.2.1:4500",
            pod_ranges=lambda node: ANY_RANGE,
        )
        self.table = TunnelTable(lambda name: None)
        self.broadcast = Broadcast(self.table, self.network, ONE)
        self._nursery = nursery
        nursery.start_soon(self.broadcast.run)

    def connect(self, node: str, packets: PacketOffer | None) -> tuple[NodeTunnel, Tunnel]:
        """The gateway's and the agent's end of a greeted tunnel."""
        one, other = trio.testing.memory_stream_pair()
        cloud = Tunnel(one, initiator=False, peer=node)
        edge = Tunnel(other, initiator=True, peer="gw-1")
        for tunnel in (cloud, edge):
            self._nursery.start_soon(tunnel.run, None)
        hello = AgentHello(version=1, node=node, software="", packets=packets)
        live = NodeTunnel(node=node, address="", tunnel=cloud, hello=hello, since=0.0)
        self.table.add(live)
        self.network.offer(node, packets)
        self.broadcast.connected(live)
        return live, edge


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Cloud]:
    async with trio.open_nursery() as nursery:
        yield Cloud(directory, nursery)
        nursery.cancel_scope.cancel()


async def heard(edge: Tunnel) -> ControlMessage:
    with trio.fail_after(60):
        return decode_control_untrusted(await edge.control.receive())


def waiting(edge: Tunnel) -> int:
    return edge.control.statistics().current_buffer_used


async def test_a_new_tunnel_is_told_all_and_the_others_only_what_is_new(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as cloud:
        _, a = cloud.connect("a", offer(1, "10.1.0.0/24"))
        assert await heard(a) == ONE
        first = await heard(a)
        assert isinstance(first, NetworkMap)
        assert [node.name for node in first.nodes] == ["gateway/gw-1", "a"]
        _, b = cloud.connect("b", offer(2, "10.2.0.0/24"))
        assert await heard(b) == ONE
        for edge in (a, b):
            told = await heard(edge)
            assert isinstance(told, NetworkMap)
            assert [node.name for node in told.nodes] == ["gateway/gw-1", "a", "b"]
        await trio.sleep(30)
        assert (waiting(a), waiting(b)) == (0, 0)


async def test_other_gateways_are_told_at_once_to_everybody(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as cloud:
        edges = [cloud.connect(name, None)[1] for name in ("a", "b")]
        for edge in edges:
            assert await heard(edge) == ONE
        cloud.broadcast.list_gateways(ONE)
        cloud.broadcast.list_gateways(TWO)
        for edge in edges:
            assert await heard(edge) == TWO
            assert waiting(edge) == 0


async def test_a_refusal_of_one_is_no_news_for_the_others(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as cloud:
        _, a = cloud.connect("a", offer(1, "10.1.0.0/24"))
        assert await heard(a) == ONE
        assert isinstance(await heard(a), NetworkMap)
        revision = cloud.network.revision
        _, b = cloud.connect("b", offer(2, "10.1.0.0/16"))
        assert await heard(b) == ONE
        refused = await heard(b)
        assert isinstance(refused, NetworkMap)
        assert "10.1.0.0/16" in refused.problem
        assert cloud.network.revision > revision
        await trio.sleep(30)
        assert waiting(a) == 0


async def test_a_storm_of_joins_is_told_in_few_rounds(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Two hundred nodes in four seconds: each hears the last state, and far fewer maps than there were."""
    async with running(tmp_path) as cloud:
        _, first = cloud.connect("first", offer(250, "10.250.0.0/24"))
        for number in range(200):
            node = PacketOffer(
                public_key=PublicKey(number.to_bytes(32, "big")).to_base64() if number else "A" * 43 + "=",
                listen_port=0,
                pod_cidrs=[f"10.{number}.0.0/24"],
            )
            cloud.network.offer(f"n{number}", node)
            await trio.sleep(0.02)
        maps = 0
        while True:
            told = await heard(first)
            if isinstance(told, NetworkMap):
                maps += 1
                if len(told.nodes) == len(cloud.network.members()) + 1:
                    break
        assert maps <= 15


async def test_a_tunnel_that_takes_nothing_holds_up_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        stuck, edge = cloud.connect("stuck", None)
        assert await heard(edge) == ONE
        blocked = trio.Event()

        async def never(data: bytes) -> None:
            blocked.set()
            await trio.sleep_forever()

        stuck.tunnel.send_control = never  # type: ignore[method-assign]
        _, other = cloud.connect("other", None)
        assert await heard(other) == ONE
        cloud.broadcast.list_gateways(TWO)
        assert await heard(other) == TWO
        await blocked.wait()
