"""The rungs of the way to the hub: UDP to its addresses, then the tunnel, and back as soon as UDP passes."""

import contextlib
import socket
from collections.abc import Iterator
from typing import cast

import pytest
import trio
import trio.testing

from agent.hub_endpoint import NoEndpoint
from agent.hub_path import CLIMB_MAX, CLIMB_MIN, HubPath
from raven.net.relay import FLOW, MISSED_FLOW
from raven.net.tunnel import Tunnel

HUB = "192.0.2.1:4500"


class FakeTunnel:
    """Takes runs as a tunnel does, and keeps them."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, bytes]] = []

    def send_datagrams(self, flow: int, *, segment_size: int, data: memoryview) -> bool:
        self.sent.append((flow, segment_size, bytes(data)))
        return True

    def on_datagrams(self, flow: int, segment_size: int, data: bytes) -> None:
        raise AssertionError("nobody has taken this tunnel's datagrams")


@pytest.fixture
def device() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(2)
        yield made


def port_of(device: socket.socket) -> int:
    port: int = device.getsockname()[1]
    return port


@contextlib.contextmanager
def path(*gateways: str) -> Iterator[tuple[HubPath, list[str], dict[str, FakeTunnel]]]:
    """A path to the hub of gw-1, the words it has passed on, and the tunnels there are."""
    heard: list[str] = []
    made = HubPath(lambda: heard.append("missed"))
    made.gateway = "gw-1"
    tunnels = {name: FakeTunnel() for name in gateways}
    for name, tunnel in tunnels.items():
        made.reached(name, cast(Tunnel, tunnel))
    try:
        yield made, heard, tunnels
    finally:
        made.close()


async def test_the_tunnel_comes_after_the_addresses_and_the_addresses_after_the_tunnel(
    device: socket.socket,
) -> None:
    with path("gw-1") as (way, _, _):
        for _ in range(2):
            await way.advance(HUB, port_of(device))
            assert (way.current, way.relayed) == (HUB, False)
            await way.advance(HUB, port_of(device))
            assert way.relayed
            assert way.current.startswith("127.0.0.1:")
        await way.advance("192.0.2.2:4500", port_of(device))
        assert (way.current, way.relayed) == ("192.0.2.2:4500", False)


@pytest.mark.parametrize(("gateways", "has_device"), [((), True), (("gw-2",), True), (("gw-1",), False)])
async def test_without_the_gateways_tunnel_or_a_device_the_addresses_take_turns(
    device: socket.socket, gateways: tuple[str, ...], has_device: bool
) -> None:
    with path(*gateways) as (way, _, _):
        port = port_of(device) if has_device else 0
        for _ in range(3):
            await way.advance(HUB, port)
            assert (way.current, way.relayed) == (HUB, False)
        with pytest.raises(NoEndpoint):
            await way.advance("", port)


async def test_a_hub_without_an_address_is_reached_through_the_tunnel(device: socket.socket) -> None:
    with path("gw-1") as (way, _, _):
        await way.advance("", port_of(device))
        assert way.relayed
        assert not way.climb_due


async def test_the_devices_datagrams_go_both_ways(device: socket.socket) -> None:
    with path("gw-1", "gw-2") as (way, heard, tunnels):
        assert way.relay(port_of(device))
        host, _, port = way.current.rpartition(":")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(way.run)
            await trio.testing.wait_all_tasks_blocked()
            device.sendto(b"x" * 148, (host, int(port)))
            while not tunnels["gw-1"].sent:  # noqa: ASYNC110 -- a kernel tells by no event
                await trio.sleep(0.01)
            assert tunnels["gw-1"].sent == [(FLOW, 148, b"x" * 148)]
            tunnels["gw-2"].on_datagrams(FLOW, 92, b"z" * 92)  # not the gateway whose hub it is
            tunnels["gw-2"].on_datagrams(MISSED_FLOW, 1, b"\0")
            tunnels["gw-1"].on_datagrams(FLOW, 92, b"y" * 92)
            assert device.recv(2048) == b"y" * 92
            assert heard == []
            tunnels["gw-1"].on_datagrams(MISSED_FLOW, 1, b"\0")
            assert heard == ["missed"]
            nursery.cancel_scope.cancel()


async def test_attempts_to_leave_the_tunnel_become_rarer_and_start_anew_with_the_network(
    device: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    with path("gw-1") as (way, _, _):
        await way.advance(HUB, port_of(device))
        assert way.relay(port_of(device))
        pauses = []
        for _ in range(8):
            began = trio.current_time()
            while not way.climb_due:  # noqa: ASYNC110 -- time alone does it
                await trio.sleep(1)
            pauses.append(trio.current_time() - began)
            relay = way.current
            way.climb()
            assert way.current == HUB
            way.climbed(False)
            assert way.current == relay
        assert pauses == [min(CLIMB_MIN * 2**number, CLIMB_MAX) for number in range(8)]
        way.climb_soon()
        await trio.sleep(CLIMB_MIN)
        assert way.climb_due
        way.climb()
        way.climbed(True)
        assert (way.current, way.relayed, way.climb_due) == (HUB, False, False)
