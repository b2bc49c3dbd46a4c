"""The gateway's end without a device: what agents and operators are told. With devices: tests/agent."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.network import GatewayNetwork
from raven.control.messages import PacketOffer
from raven.errors import ConfigError
from raven.keys import PrivateKey, PublicKey
from raven.net.end import EndOptions
from raven.net.probe import ProbeError
from raven.registry.interface import NodeRecord
from raven.wg.configuration import DeviceState
from tests.topology.ranges import ANY_RANGE


def made(state_dir: Path, *, off: str = "", pod_cidrs: tuple[str, ...] = ("10.0.0.0/24",)) -> GatewayNetwork:
    return GatewayNetwork(
        EndOptions(
            private_key=PrivateKey(bytes([1]) * 32),
            public_key=PublicKey(bytes([1]) * 32),
            listen_port=4500,
            pod_cidrs=pod_cidrs,
            interface="rvn-none",
            state_dir=state_dir,
            off=off,
            program=["/nowhere/raven-wg"],
        ),
        name="cloud",
        endpoint="g.example.com:4500",
        pod_ranges=lambda node: ANY_RANGE,
    )


def offer(number: int, *pod_cidrs: str) -> PacketOffer:
    key = PublicKey(bytes([number]) * 32).to_base64()
    return PacketOffer(public_key=key, listen_port=0, pod_cidrs=list(pod_cidrs))


def test_a_pod_network_nobody_may_carry_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pod_cidr: pod network ff02::/64 cannot be used"):
        made(tmp_path, pod_cidrs=("ff02::/64",))


async def test_a_gateway_without_a_device_still_tells_agents_who_is_who(tmp_path: Path) -> None:
    network = made(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        assert network.offer("a", offer(2, "10.1.0.0/24")) == ""
        assert "overlaps 10.1.0.0/24 of a" in network.offer("b", offer(3, "10.1.0.0/25"))
        assert [node.name for node in network.map_for("a").nodes] == ["gateway/cloud", "a"]
        why = "/nowhere/raven-wg cannot be run: No such file or directory"
        assert (network.lane().state, network.lane().detail) == ("down", why)
        assert (network.node_lane("a").state, network.node_lane("a").detail) == (
            "down",
            f"the gateway has no device: {why}",
        )
        assert network.node_lane("b").detail == network.map_for("b").problem
        assert network.node_lane("c").state == "off"
        assert network.problems()[0] == f"packets: {why}"
        assert "overlaps 10.1.0.0/24 of a" in network.problems()[1]
        for node, words in (
            ("a", "down on this side|cannot be run"),
            ("b", "overlaps"),
            ("c", "brings no packets"),
        ):
            with pytest.raises(ProbeError, match=words):
                await network.ping(node)
        nursery.cancel_scope.cancel()


async def test_a_burst_of_changes_wakes_a_waiting_agent_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    network = made(tmp_path)
    woken: list[int] = []

    async def wait() -> None:
        while True:
            await network.wait_changed(network.revision)
            woken.append(network.revision)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(2, 10):
            network.offer(f"n{number}", offer(number))
        await trio.sleep(5)
        assert woken == [network.revision]
        network.offer("n2", offer(2))
        await trio.sleep(5)
        assert len(woken) == 1
        network.forget("n2")
        await trio.sleep(5)
        assert len(woken) == 2
        nursery.cancel_scope.cancel()


async def test_members_come_back_from_the_registry(tmp_path: Path) -> None:
    network = made(tmp_path)
    network.load(
        [
            NodeRecord(
                name="a",
                created=1.0,
                last_seen=None,
                public_key=PublicKey(bytes([2]) * 32),
                pod_cidrs=("10.1.0.0/24",),
                software="",
                certificate_serial="",
            )
        ]
    )
    revision = network.revision
    assert network.offer("a", offer(2, "10.1.0.0/24")) == ""
    assert network.revision == revision


async def test_switched_off_it_says_so_to_everybody(tmp_path: Path) -> None:
    network = made(tmp_path, off="switched off by --no-packets")
    sentence = "the gateway carries no packets: switched off by --no-packets"
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        assert network.offer("a", offer(2)) == sentence
        assert network.offer("b", None) == ""
        assert (network.map_for("a").nodes, network.map_for("a").problem) == ([], sentence)
        assert (network.lane().state, network.node_lane("a").state) == ("off", "off")
        assert network.problems() == []
        with pytest.raises(ProbeError, match="switched off"):
            await network.ping("a")
        nursery.cancel_scope.cancel()


async def test_nodes_are_told_of_a_device_that_was_started_anew(tmp_path: Path) -> None:
    network = made(tmp_path)
    network.offer("a", offer(2, "10.1.0.0/24"))
    lane, looks = network._lane, (DeviceState(), None, DeviceState())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network._listen, PublicKey(bytes([1]) * 32), lane)
        seen = []
        for state in looks:
            await trio.testing.wait_all_tasks_blocked()
            lane._saw(state, {})
            await trio.testing.wait_all_tasks_blocked()
            seen.append([node.starts for node in network.map_for("a").nodes])
        nursery.cancel_scope.cancel()
    assert seen == [[0, 0], [0, 0], [1, 0]]
