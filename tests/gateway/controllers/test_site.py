"""Pod networks, members and the status's smaller parts, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import pytest

from gateway.controllers.problems import claims
from gateway.controllers.site import Facts, node_info, pod_networks, site_status
from raven.kube.conventions import EXTRA_CIDRS, Doors, Lanes
from raven.kube.gateways import Gateway, GatewayStatus
from raven.kube.objects import Meta
from raven.kube.resources import BlockAffinity, BlockAffinitySpec, Node
from raven.topology.election import Health
from tests.gateway.controllers.scene import gateway, node, proxy, tunnel

NOW = 1.8e9
ON = Lanes(True, True)
CALICO = {"projectcalico.org/IPv4Address": "10.0.0.1/24"}


def block(cidr: str, of: str = "n", state: str = "confirmed", deleted: str = "false") -> BlockAffinity:
    spec = BlockAffinitySpec(state=state, node=of, cidr=cidr, deleted=deleted)
    return BlockAffinity(metadata=Meta(name=cidr.replace("/", "-")), spec=spec)


@pytest.mark.parametrize(
    ("one", "blocks", "expected"),
    [
        (node("n", cidrs=("10.1.0.0/24", "fd00:1::/64")), [], ["10.1.0.0/24", "fd00:1::/64"]),
        (node("n"), [], []),
        (node("n", cidrs=("10.1.0.0/24",)), [block("10.2.0.0/26")], ["10.1.0.0/24"]),  # no Calico here
        (
            node("n", cidrs=("10.1.0.0/24",), annotations=CALICO),
            [block("10.2.0.64/26"), block("10.2.0.0/26")],
            ["10.2.0.0/26", "10.2.0.64/26"],
        ),
        (node("n", cidrs=("10.1.0.0/24",), annotations=CALICO), [], []),
        (node("n", annotations=CALICO), [block("10.2.0.0/26", state="pending")], []),
        (node("n", annotations=CALICO), [block("10.2.0.0/26", of="m")], []),
        (node("n", annotations=CALICO), [block("10.2.0.0/26", deleted="true")], []),
    ],
)
def test_pod_networks(one: Node, blocks: list[BlockAffinity], expected: list[str]) -> None:
    assert pod_networks(one, blocks) == expected


def test_a_node_without_an_address_is_no_empty_string() -> None:
    assert node_info(node("n"), [])[0].private_ip == "0.0.0.0"


def test_the_one_field_of_old_nodes() -> None:
    old = node("n", cidrs=("10.1.0.0/24",))
    old = msgspec.structs.replace(old, spec=msgspec.structs.replace(old.spec, pod_cidrs=()))
    assert pod_networks(old, []) == ["10.1.0.0/24"]


def test_a_network_nobody_may_carry_is_left_out_and_named() -> None:
    info, wrong = node_info(node("n", cidrs=("0.0.0.0/0", "10.1.0.0/24")), [])
    assert info.subnets == ("10.1.0.0/24",)
    assert len(wrong) == 1
    assert wrong[0].startswith("node n: ")


def facts(
    one: Gateway,
    *nodes: Node,
    lanes: Lanes = ON,
    health: Mapping[tuple[str, str], Health] = MappingProxyType({}),
) -> Facts:
    named = {node.metadata.name: node for node in nodes}
    return Facts(
        gateway=one,
        nodes=[n for n in nodes if one.metadata.name in n.metadata.labels.values()],
        known=named.get,
        blocks=lambda name: [],
        lanes=lanes,
        doors=Doors({10250: 10263}),
        held=claims([one]),
        measured=lambda node, type: health.get((node, type)),
        load_balancers={},
    )


def status(one: Gateway, *nodes: Node, now: float = NOW) -> GatewayStatus:
    return site_status(facts(one, *nodes), now=now)


def test_extra_networks_go_to_the_node_that_carries_the_tunnel() -> None:
    one = gateway("g", tunnel("b"), tunnels=1, annotations={EXTRA_CIDRS: " 172.30.0.0/16, nonsense,"})
    found = status(one, node("a", "g", cidrs=("10.1.0.0/24",)), node("b", "g", cidrs=("10.2.0.0/24",)))
    assert [info.subnets for info in found.nodes] == [("10.1.0.0/24",), ("10.2.0.0/24", "172.30.0.0/16")]
    assert "nonsense" in found.conditions[0].message


def test_ports_and_addresses_are_filled_in() -> None:
    one = gateway("g", proxy("a"), tunnel("a", config={"x": "y"}), expose="PublicIP", proxies=1, tunnels=1)
    first, second = status(one, node("a", "g", external="198.51.100.7")).active_endpoints
    assert (first.port, first.public_ip, first.config) == (10262, "198.51.100.7", {"enable-l7-proxy": "true"})
    assert (second.port, second.config) == (4500, {"x": "y", "enable-l3-tunnel": "true"})


@pytest.mark.parametrize(
    ("one", "external", "said"),
    [
        (
            gateway("g", proxy("a"), expose="PublicIP", proxies=1),
            "",
            "the proxy endpoint of node a has no publicIP",
        ),
        (gateway("g", proxy("a"), expose="PublicIP", proxies=1), "198.51.100.7", ""),
        (gateway("g", proxy("a", public_ip="198.51.100.1"), expose="PublicIP", proxies=1), "", ""),
        (gateway("g", proxy("a"), expose="LoadBalancer", proxies=1), "", ""),  # its address comes later
        (gateway("g", proxy("a"), proxies=1), "", ""),
    ],
)
def test_an_exposed_endpoint_has_an_address(one: Gateway, external: str, said: str) -> None:
    accepted = status(one, node("a", "g", external=external)).conditions[0]
    assert (accepted.status, said in accepted.message) == ("False" if said else "True", True)


def test_a_condition_keeps_the_time_it_turned() -> None:
    one = gateway("g", tunnel("a"), tunnels=1)
    before = status(one, node("a", "g"))
    again = status(msgspec.structs.replace(one, status=before), node("a", "g"), now=NOW + 100)
    assert again == before
    after = status(msgspec.structs.replace(one, status=before), node("a", "g", ready=False), now=NOW + 100)
    times = [condition.last_transition_time for condition in after.conditions]
    assert times[0] == before.conditions[0].last_transition_time
    assert times[1] != before.conditions[1].last_transition_time
    assert "not ready" in after.conditions[1].message


UP, DOWN, GONE_A_MOMENT = Health(True, 0.0), Health(False, 60.0), Health(False, 2.0)


@pytest.mark.parametrize(
    ("site", "health", "status", "message"),
    [
        (gateway("g", proxy("a"), proxies=1), {("a", "proxy"): UP}, "True", ""),
        (gateway("g", proxy("a"), proxies=1), {("a", "proxy"): GONE_A_MOMENT}, "True", ""),
        (gateway("g", proxy("a"), proxies=1), {("a", "proxy"): DOWN}, "False", "no tunnel to node a"),
        (gateway("g", tunnel("a"), tunnels=1), {("a", "tunnel"): DOWN}, "False", "no packets to node a"),
        (
            gateway("g", proxy("a"), proxies=1),
            {},
            "False",
            "node a has not joined: no agent of that name is known",
        ),
        (
            gateway("g", proxy("a"), tunnel("a"), proxies=1, tunnels=1),
            {("a", "proxy"): UP, ("a", "tunnel"): DOWN},
            "False",
            "no packets to node a",
        ),
        (gateway("g", proxy("a")), {}, "Unknown", ""),  # nothing is to be active
        # One that others dial: pods, where it has them, and otherwise nobody can tell.
        (gateway("g", proxy("a"), expose="PublicIP", proxies=1), {}, "Unknown", ""),
        (
            gateway("g", proxy("a"), expose="PublicIP", proxies=1),
            {("a", "proxy"): DOWN},
            "False",
            "no ready gateway on node a",
        ),
    ],
)
def test_whether_a_site_is_connected(
    site: Gateway, health: dict[tuple[str, str], Health], status: str, message: str
) -> None:
    found = site_status(facts(site, node("a", "g"), health=health), now=NOW)
    connected = next(one for one in found.conditions if one.type == "Connected")
    assert (connected.status, connected.message) == (status, message)
    assert connected.reason  # the API asks for one


def test_many_problems_are_counted() -> None:
    one = gateway("g", *(tunnel(f"n{number}") for number in range(20)))
    assert status(one).conditions[0].message.endswith("; and 12 more")
