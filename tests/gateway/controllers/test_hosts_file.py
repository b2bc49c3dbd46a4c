"""The hosts file, line by line."""

from __future__ import annotations

from gateway.controllers.hosts_file import hosts_file
from tests.gateway.controllers.scene import node

NODES = [
    node("edge", "shop", address="10.0.0.1"),
    node("cloud", address="192.0.2.1"),
    node("outside", external="198.51.100.1"),
    node("nowhere"),
]


def test_nodes_behind_us_have_the_address_of_the_service() -> None:
    text = hosts_file(NODES, is_ours=lambda one: one.metadata.name == "edge", proxy="10.96.0.9")
    assert text == "10.96.0.9\tedge\n192.0.2.1\tcloud\n198.51.100.1\toutside"


def test_without_the_service_all_have_their_own() -> None:
    text = hosts_file(NODES, is_ours=lambda one: True, proxy="")
    assert text == "10.0.0.1\tedge\n192.0.2.1\tcloud\n198.51.100.1\toutside"


def test_of_nothing_it_is_empty() -> None:
    assert hosts_file([], is_ours=lambda one: True, proxy="10.96.0.9") == ""
