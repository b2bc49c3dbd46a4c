"""The table of tunnels."""

from typing import cast

import pytest

from gateway.tunnels import NodeTunnel, Offline, TunnelTable
from raven.control.messages import AgentHello, PacketOffer
from raven.net.tunnel import Tunnel


def _live(node: str) -> NodeTunnel:
    offer = PacketOffer(public_key="", listen_port=1, pod_cidrs=["10.1.0.0/24"])
    hello = AgentHello(version=1, node=node, software="0.1", packets=offer)
    return NodeTunnel(node=node, address="192.0.2.1:1", tunnel=cast(Tunnel, None), hello=hello, since=0.0)


@pytest.fixture
def table() -> TunnelTable:
    joined = {"seen": 1000.0, "never": None}
    return TunnelTable(lambda name: joined[name])


def test_lookup(table: TunnelTable) -> None:
    assert table.lookup("seen") == Offline(1000.0)
    assert table.lookup("never") == Offline(None)
    assert table.lookup("stranger") is None
    live = _live("seen")
    table.add(live)
    assert table.lookup("seen") is live
    assert (live.software, list(live.pod_cidrs)) == ("0.1", ["10.1.0.0/24"])
    table.remove(live)
    assert table.lookup("seen") == Offline(1000.0)


def test_the_nodes_at_an_address_are_those_of_the_registry() -> None:
    assert TunnelTable(lambda name: None, {"10.0.0.7": ["seen"]}.__getitem__).nodes_at("10.0.0.7") == ["seen"]


def test_connected_is_in_the_order_of_names(table: TunnelTable) -> None:
    for name in ("b", "c", "a"):
        table.add(_live(name))
    assert [live.node for live in table.connected()] == ["a", "b", "c"]


def test_an_old_tunnel_that_ends_late_does_not_remove_the_new_one(table: TunnelTable) -> None:
    old, new = _live("seen"), _live("seen")
    table.add(old)
    table.remove(old)
    table.add(new)
    table.remove(old)
    assert table.live("seen") is new
