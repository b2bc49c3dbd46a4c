"""Who loses a right leaves the packet lane as well, connected or not."""

import time
from pathlib import Path

import trio

from gateway.network import GatewayNetwork
from gateway.revocation import cut_withdrawn
from gateway.tunnels import TunnelTable
from raven.keys import PublicKey
from raven.net.end import EndOptions
from tests.aged import DAY, Past, past
from tests.topology.ranges import ANY_RANGE


def _network(then: Past, directory: Path) -> GatewayNetwork:
    return GatewayNetwork(
        EndOptions(
            private_key=then.state.wg_private_key,
            public_key=then.state.wg_public_key,
            listen_port=4500,
            pod_cidrs=[],
            interface="none",
            state_dir=directory,
        ),
        name="gw-1",
        endpoint="127.0.0.1:4500",
        pod_ranges=lambda node: ANY_RANGE,
    )


def _never(name: str) -> None:
    return None


async def _members(network: GatewayNetwork, wanted: list[str]) -> None:
    with trio.fail_after(5):
        while True:
            if sorted(network.members()) == wanted:
                return
            await trio.sleep(0.01)


async def test_packets_end_with_the_certificate_and_with_the_node(tmp_path: Path) -> None:
    state = tmp_path / "gateway"
    for number, (node, days_ago) in enumerate([("expired", 91.0), ("due", 61.0), ("removed", 1.0)], start=1):
        with past(state, now=time.time() - days_ago * DAY) as then:
            then.join(tmp_path / node, node)
            key = PublicKey(bytes([number]) * 32)
            then.registry.record_hello(node, public_key=key, pod_cidrs=[], software="", now=then.now)
    with past(state, now=time.time()) as now:
        network = _network(now, tmp_path)
        network.load(now.registry.nodes())
        assert sorted(network.members()) == ["due", "expired", "removed"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_withdrawn, now.registry, TunnelTable(_never), network)
            await _members(network, ["due", "removed"])
            now.registry.remove_node("removed", now=now.now)
            await _members(network, ["due"])
            nursery.cancel_scope.cancel()


async def test_a_registry_that_cannot_be_read_takes_nobody_away(tmp_path: Path) -> None:
    with past(tmp_path / "gateway", now=time.time()) as now:
        now.join(tmp_path / "node", "shop-1")
        key = PublicKey(bytes([1]) * 32)
        now.registry.record_hello("shop-1", public_key=key, pod_cidrs=[], software="", now=now.now)
        network = _network(now, tmp_path)
        network.load(now.registry.nodes())
        now.registry.close()
        with trio.move_on_after(0.6):
            await cut_withdrawn(now.registry, TunnelTable(_never), network)
        assert network.members() == ["shop-1"]
