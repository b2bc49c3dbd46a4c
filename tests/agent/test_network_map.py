"""What of a map this node plans with, whatever a gateway tells."""

from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from agent import network_map
from raven.control.messages import MapNode, NetworkMap
from raven.keys import PublicKey
from raven.topology.model import Member, parse_pod_networks_untrusted

LOG = structlog.get_logger()


def key(number: int) -> PublicKey:
    return PublicKey(bytes([number]) * 32)


def node(name: str, number: int, *pod_cidrs: str, hub: bool = False, endpoint: str = "") -> MapNode:
    return MapNode(
        name=name, public_key=key(number).to_base64(), endpoint=endpoint, pod_cidrs=list(pod_cidrs), hub=hub
    )


ME = Member(name="me", public_key=key(1), pod_networks=parse_pod_networks_untrusted(["10.1.0.0/24"]))
HUB = node("gateway/g", 2, "10.0.0.0/24", hub=True, endpoint="g.example.com:4500")


def names(*nodes: MapNode) -> list[str]:
    return [member.name for member in network_map.members(NetworkMap(revision=1, nodes=list(nodes)), ME, LOG)]


def test_this_node_comes_first_and_the_others_as_the_map_has_them() -> None:
    assert names(HUB, node("b", 3), node("me", 1, "10.1.0.0/24"), node("c", 4)) == [
        "me",
        "gateway/g",
        "b",
        "c",
    ]


def test_its_own_networks_are_those_it_is_configured_with() -> None:
    [me, _] = network_map.members(NetworkMap(revision=1, nodes=[HUB, node("me", 1, "10.9.0.0/24")]), ME, LOG)
    assert me == ME


def test_a_map_without_this_node_plans_nothing() -> None:
    assert names(HUB, node("b", 3)) == ["me"]
    assert network_map.members(None, ME, LOG) == [ME]


@pytest.mark.parametrize(
    "bad",
    [
        node("thief", 3, "10.1.0.128/25"),
        node("everything", 3, "0.0.0.0/0"),
        node("half", 3, "0.0.0.0/1"),
        node("prober", 3, "fd6b:aaf4:af96::/64"),
        node("nonsense", 3, "x"),
        MapNode(name="no-key", public_key="x", endpoint="", pod_cidrs=[], hub=False),
        node("again", 2),
    ],
)
def test_what_no_node_may_carry_is_left_out_with_a_warning(bad: MapNode) -> None:
    with capture_logs() as lines:
        assert names(HUB, node("me", 1), bad, node("c", 4, "10.3.0.0/24")) == ["me", "gateway/g", "c"]
    assert [(line["log_level"], line["node"]) for line in lines] == [("warning", bad.name)]


def test_a_map_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    with capture_logs() as lines:
        network_map.keep(tmp_path / "missing", NetworkMap(revision=1, nodes=[]), LOG)
    assert [line["log_level"] for line in lines] == ["warning"]


def test_a_map_is_kept_whole(tmp_path: Path) -> None:
    told = NetworkMap(revision=3, nodes=[HUB, node("me", 1)], problem="x")
    network_map.keep(tmp_path, told, LOG)
    assert network_map.load(tmp_path, LOG) == told
    assert [path.name for path in tmp_path.iterdir()] == ["network.json"]
