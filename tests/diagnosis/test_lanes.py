"""What snapshots come to."""

import pytest

from raven.diagnosis import lanes
from raven.status import Lane, LaneState
from tests.cli.daemon import agent, gateway, node, up


@pytest.mark.parametrize(
    ("state", "result"),
    [("up", "ok"), ("off", "note"), ("starting", "note"), ("stale", "broken"), ("down", "broken")],
)
def test_a_tunnel(state: LaneState, result: str) -> None:
    (found,) = lanes.tunnels(agent(Lane(state=state, evidence_age_s=40.0, detail="the words of it")))
    assert (found.hop, found.result, found.about) == ("tunnel", result, "gw-1 gateway.example.com:443")
    assert found.said.endswith("last proved 40 s ago: the words of it")
    assert bool(found.next) == (result == "broken")


def test_two_machines_with_one_identity() -> None:
    detail = "node shop-1 already has a tunnel that answers, from 192.0.2.1:4"
    (found,) = lanes.tunnels(agent(Lane(state="down", detail=detail)))
    assert "two machines use this identity" in found.next
    assert "never proved" in found.said


def test_nodes_that_were_not_asked_for_are_noted() -> None:
    down = Lane(state="down", evidence_age_s=90.0, detail="it has no tunnel")
    of = gateway(node("shop-1"), node("shop-2", stream=down), node("shop-3", packets=down))
    assert [each.result for each in lanes.nodes(of)] == ["ok", "broken", "ok"]
    assert [each.result for each in lanes.nodes(of, only="shop-1")] == ["ok", "note", "ok"]
    assert [(each.about, each.result) for each in lanes.node_packets(of)] == [
        ("shop-1", "ok"),
        ("shop-3", "broken"),  # shop-2 has a finding for its streams
    ]
    assert [each.result for each in lanes.node_packets(of, only="shop-1")] == ["ok", "note"]


def test_many_nodes_that_are_well_are_one_line() -> None:
    down = Lane(state="down", evidence_age_s=90.0, detail="it has no tunnel")
    of = gateway(*(node(f"shop-{number}") for number in range(20)), node("shop-99", stream=down))
    summary, broken = lanes.nodes(of)
    assert (summary.said, broken.about) == ("20 nodes are up, each on fresh evidence", "shop-99")
    assert [each.about for each in lanes.nodes(of, only="shop-7")] == ["", "shop-7", "shop-99"]
    assert len(lanes.node_packets(of)) == 1


def test_a_daemon_that_does_not_tell() -> None:
    assert "systemctl start raven-agent" in lanes.no_daemon("raven-agent", "no such socket").next
    assert "systemctl restart raven-agent" in lanes.no_daemon("raven-agent", "no answer within 5 s").next
    assert lanes.no_daemon("raven-agent", "Permission denied").result == "unknown"


def test_a_node_that_never_joined() -> None:
    found = lanes.nodes(gateway(node("shop-1")), only="shop-2")[-1]
    assert (found.result, found.about) == ("broken", "shop-2")
    assert "joined: shop-1" in found.said


def test_packets_that_are_off_on_purpose() -> None:
    found = lanes.packets(agent(up()))
    assert (found.result, found.next) == ("note", "")
