"""The list that Prometheus reads."""

import json
from dataclasses import dataclass

import pytest

from raven.oam.discovery import discover, requested_ports
from raven.oam.refusal import Refusal


@dataclass(frozen=True)
class Node:
    node: str
    pod_cidrs: tuple[str, ...] = ()
    software: str = "1.0"


def test_each_node_is_a_group_with_its_labels() -> None:
    nodes = [Node("edge1", ("10.1.0.0/24", "fd00:1::/64")), Node("edge2")]
    assert json.loads(discover(nodes, [9100, 9445])) == [
        {
            "targets": ["edge1:9100", "edge1:9445"],
            "labels": {
                "__meta_raven_node": "edge1",
                "__meta_raven_pod_cidrs": "10.1.0.0/24,fd00:1::/64",
                "__meta_raven_software": "1.0",
            },
        },
        {
            "targets": ["edge2:9100", "edge2:9445"],
            "labels": {
                "__meta_raven_node": "edge2",
                "__meta_raven_pod_cidrs": "",
                "__meta_raven_software": "1.0",
            },
        },
    ]
    assert json.loads(discover([], [9100])) == []


@pytest.mark.parametrize(
    ("query", "ports"),
    [("", [9100]), ("port=1", [1]), ("port=9100&port=9445&port=9100", [9100, 9445]), ("other=1", [9100])],
)
def test_ports(query: str, ports: list[int]) -> None:
    assert requested_ports(query) == ports


@pytest.mark.parametrize(
    "query",
    ["port=", "port=0", "port=65536", "port=x", "port=-1", "&".join(f"port={n}" for n in range(1, 66))],
)
def test_ports_that_cannot_be(query: str) -> None:
    with pytest.raises(Refusal) as caught:
        requested_ports(query)
    assert caught.value.status == 400
