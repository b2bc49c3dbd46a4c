"""What the gateway says of itself: states and the age of their evidence, and one lane's fault."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from gateway import report
from gateway.app import Gateway
from gateway.options import GatewayOptions
from gateway.parts import Parts
from gateway.tunnels import NodeTunnel
from raven.config import load
from raven.control.messages import AgentHello, PacketReport
from raven.net.daemon import Stop
from raven.net.sdnotify import Notifier
from raven.net.status_socket import SnapshotRequest, ask
from raven.net.tunnel import Tunnel
from raven.registry.gateway_state import open_gateway
from raven.registry.interface import CertificateRecord
from raven.registry.sqlite import SqliteRegistry
from raven.status import PingResult
from tests.daemons import free_port


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Parts]]:
    """Makes a gateway that has not started, with the node shop-1 in its registry."""
    state = open_gateway(
        tmp_path / "state", hosts=["127.0.0.1"], name="gw-1", cluster="test", now=time.time()
    )
    registry = SqliteRegistry(state.registry, now=time.time())

    def make(*, packets: bool = False, **more: str) -> Parts:
        given = {
            "state_dir": str(tmp_path / "state"),
            "agents_listen": f"127.0.0.1:{free_port()}",
            "oam_listen": f"127.0.0.1:{free_port()}",
            "metrics_listen": "off",
            "socket": str(tmp_path / "socket"),
            "no_packets": not packets,
            **more,
        }
        return Parts(load(GatewayOptions, given=given), state, registry)

    _enrol(registry, "shop-1")
    yield make
    registry.close()
    state.close()


def _enrol(registry: SqliteRegistry, node: str) -> None:
    """Puts a node into the registry, as a join would."""
    from gateway.admin.token import add_token
    from raven.pki.token import parse_token_untrusted

    now = time.time()
    token = parse_token_untrusted(add_token(registry, bytes(32), now=now))

    def issue(name: str) -> CertificateRecord:
        return CertificateRecord(
            serial="01",
            node=name,
            key_hash=bytes(32),
            not_before=now,
            not_after=now + 1e6,
            issued=now,
            pem="",
        )

    registry.enrol(
        token_id=token.id,
        secret=token.secret,
        node=node,
        key_hash=bytes(32),
        now=now,
        issue=issue,
        asker="a test",
    )


@dataclass
class _Tunnel:
    """As much of a tunnel as a report reads."""

    last_heard: float
    rtt: float | None = 0.004
    bytes_in: int = 10
    bytes_out: int = 20
    streams_open: int = 3
    suspended_since: float | None = None

    async def ping(self) -> float:
        await trio.lowlevel.checkpoint()
        return 0.005


def _live(*, heard: float, reason: str = "no TUN") -> NodeTunnel:
    """A tunnel of shop-1 that was last heard `heard` seconds ago."""
    return NodeTunnel(
        node="shop-1",
        address="192.0.2.1:4711",
        tunnel=cast(Tunnel, _Tunnel(trio.current_time() - heard)),
        hello=AgentHello(version=1, node="shop-1", software="9", packets=None, no_packets_reason=reason),
        since=0.0,
    )


async def test_a_node_whose_last_answer_is_70_seconds_old_is_not_connected(
    make: Callable[..., Parts],
) -> None:
    gateway = make()
    for heard, connected, lane in ((5.0, True, "up"), (70.0, False, "stale")):
        live = _live(heard=heard)
        gateway.table.add(live)
        (node,) = report.snapshot(gateway).nodes
        assert node.connected is connected
        assert node.stream_lane == lane
        assert node.last_seen_s == pytest.approx(heard, abs=1)
        assert node.stream.evidence_age_s == node.last_seen_s
        assert (node.address, node.software, node.streams) == ("192.0.2.1:4711", "9", 3)
        gateway.table.remove(live)


async def test_a_node_without_a_tunnel(make: Callable[..., Parts]) -> None:
    gateway = make()
    (node,) = report.snapshot(gateway).nodes
    assert (node.last_seen_s, node.stream.detail) == (None, "it joined, and never connected")
    gateway.registry.record_seen({"shop-1": time.time() - 100})
    (node,) = report.snapshot(gateway).nodes
    assert node.last_seen_s == pytest.approx(100, abs=2)
    assert (node.stream_lane, node.stream.detail) == ("down", "it has no tunnel")


async def test_why_a_node_brings_no_packets(make: Callable[..., Parts]) -> None:
    gateway = make()
    gateway.table.add(_live(heard=1.0, reason="this machine has no /dev/net/tun"))
    (node,) = report.snapshot(gateway).nodes
    assert (node.packet_lane, node.packets.detail) == ("off", "this machine has no /dev/net/tun")


async def test_ping(make: Callable[..., Parts]) -> None:
    gateway = make()
    assert "no node named nobody has joined" in str(await report.ping(gateway, "nobody"))
    down = await report.ping(gateway, "shop-1")
    assert isinstance(down, PingResult)
    assert (down.stream_rtt_ms, down.stream_problem) == (None, "it joined, and never connected")
    gateway.table.add(_live(heard=1.0))
    up = await report.ping(gateway, "shop-1")
    assert up == PingResult(node="shop-1", stream_rtt_ms=5.0, packet_problem="no TUN", packet_off=True)


async def test_a_fault_of_the_packet_lane_leaves_the_streams_alone(
    make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = make(packets=True)

    async def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(gateway.network, "run", broken)
    stop = Stop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Gateway(gateway).serve, stop, Notifier({}))
        with trio.fail_after(10):
            while not gateway.problems:
                await trio.testing.wait_all_tasks_blocked(0.01)
        answer = await ask(gateway.options.socket, SnapshotRequest())
        assert answer.snapshot is not None
        assert "the packet lane ended by a fault of the gateway" in answer.snapshot.problems[0]
        host, port = gateway.options.oam_listen
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        stop.ask()


async def test_an_agents_word_about_its_end_is_shown(make: Callable[..., Parts]) -> None:
    gateway = make(packets=True, wg_listen="127.0.0.1:4500")
    live = _live(heard=1.0)
    live.hello = AgentHello(version=1, node="shop-1", software="9", packets=None, no_packets_reason="")
    live.report = PacketReport(problem="route 10.1.0.0/24 is somebody else's")
    gateway.table.add(live)
    (node,) = report.snapshot(gateway).nodes
    assert node.packets.detail == "the agent brings no packets"
