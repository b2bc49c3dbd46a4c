"""A firewall that drops what it should forward, as Docker leaves it, is noticed; on real nftables."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven.diagnosis.forward_policy import forward_policy, parse_nft_untrusted
from tests.lab.machine import Machine
from tests.net.hosts import host

DOCKER = """
table ip filter {
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        iifname "docker0" accept
    }
}
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with host(tmp_path) as made:
        yield made


@pytest.mark.netns
def test_a_policy_of_drop_is_a_note_until_a_rule_names_the_interface(machine: Machine) -> None:
    assert machine.inside(lambda: forward_policy("raven0")) == []
    machine.run("nft", "-f", "-", text=DOCKER)
    (found,) = machine.inside(lambda: forward_policy("raven0"))
    assert (found.hop, found.result, found.about) == ("forwarding", "note", "ip filter FORWARD")
    machine.run("nft", "add", "rule", "ip", "filter", "FORWARD", "iifname", "raven0", "accept")
    assert machine.inside(lambda: forward_policy("raven0")) == []


def test_a_policy_of_accept_and_other_hooks_are_none() -> None:
    chains = [
        {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "accept"},
        {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"},
        {"family": "inet", "table": "fw", "name": "helper"},
    ]
    text = json.dumps({"nftables": [{"metainfo": {}}, *({"chain": chain} for chain in chains)]})
    assert parse_nft_untrusted(text) == []


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "{}", '{"nftables": 3}', '{"nftables": [{"chain": 3}]}', '{"nftables": [3]}']
)
def test_listings_that_make_no_sense_say_nothing(text: str) -> None:
    assert parse_nft_untrusted(text) == []
