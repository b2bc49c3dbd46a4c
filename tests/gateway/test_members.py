"""Offers, conflicts and maps, as plain values."""

from dataclasses import replace
from ipaddress import ip_network

import msgspec
import pytest

from gateway.members import Members
from raven.control.messages import MapNode, PacketOffer
from raven.keys import PublicKey
from raven.registry.interface import NodeRecord
from raven.topology.model import Member, parse_pod_networks_untrusted
from tests.topology.ranges import ANY_RANGE


def key(number: int) -> PublicKey:
    return PublicKey(bytes([number]) * 32)


def offer(number: int, *pod_cidrs: str) -> PacketOffer:
    return PacketOffer(public_key=key(number).to_base64(), listen_port=0, pod_cidrs=list(pod_cidrs))


def record(name: str, number: int | None, *pod_cidrs: str, created: float) -> NodeRecord:
    return NodeRecord(
        name=name,
        created=created,
        last_seen=None,
        public_key=None if number is None else key(number),
        pod_cidrs=pod_cidrs,
        software="",
        certificate_serial="",
    )


@pytest.fixture
def members() -> Members:
    return Members(
        Member(
            name="gateway/g",
            public_key=key(1),
            endpoint="g.example.com:4500",
            pod_networks=parse_pod_networks_untrusted(["10.0.0.0/24"]),
            hub=True,
        ),
        lambda node: ANY_RANGE,
    )


def test_a_map_tells_a_member_of_all_and_the_hub_comes_first(members: Members) -> None:
    assert members.offer("a", offer(2, "10.1.0.0/24")) == ""
    assert members.offer("b", offer(3, "10.2.0.0/24", "fd00:2::/64")) == ""
    told = members.map_for("a")
    assert (told.problem, told.revision) == ("", members.revision)
    assert told.nodes == [
        MapNode(
            name="gateway/g",
            public_key=key(1).to_base64(),
            endpoint="g.example.com:4500",
            pod_cidrs=["10.0.0.0/24"],
            hub=True,
        ),
        MapNode(name="a", public_key=key(2).to_base64(), endpoint="", pod_cidrs=["10.1.0.0/24"], hub=False),
        MapNode(
            name="b",
            public_key=key(3).to_base64(),
            endpoint="",
            pod_cidrs=["10.2.0.0/24", "fd00:2::/64"],
            hub=False,
        ),
    ]


def test_a_revision_counts_changes_and_nothing_else(members: Members) -> None:
    first = members.revision
    members.offer("a", offer(2, "10.1.0.0/24"))
    second = members.revision
    assert second > first
    members.offer("a", offer(2, "10.1.0.0/24"))
    members.offer("b", None)
    assert members.revision == second
    members.offer("a", offer(2, "10.1.0.0/24", "10.7.0.0/24"))
    assert members.revision > second


def test_a_device_that_was_started_anew_is_told(members: Members) -> None:
    members.offer("a", offer(2, "10.1.0.0/24"))
    before = members.map_for("a")
    members.device_started(key(1))
    after = members.map_for("a")
    assert after.revision > before.revision
    assert [node.starts for node in after.nodes] == [1, 0]
    assert before.nodes != after.nodes  # or nobody would be told


@pytest.mark.parametrize(
    ("packets", "why"),
    [
        (offer(3, "10.0.0.0/16"), "pod network 10.0.0.0/16 of node b overlaps 10.0.0.0/24 of gateway/g"),
        (offer(3, "10.1.0.128/25"), "pod network 10.1.0.128/25 of node b overlaps 10.1.0.0/24 of a"),
        (offer(2), "node b offers the WireGuard public key of a"),
        (offer(1), "node b offers the WireGuard public key of gateway/g"),
        (offer(0), "node b offers the key of all zeros"),
        (offer(3, "0.0.0.0/0"), "pod network 0.0.0.0/0 cannot be used"),
        (
            PacketOffer(public_key="AAAA", listen_port=0, pod_cidrs=[]),
            "node b offers no WireGuard public key",
        ),
        (PacketOffer(public_key="", listen_port=0, pod_cidrs=[]), "node b offers no WireGuard public key"),
    ],
)
def test_what_is_refused_is_told_to_its_node_alone(members: Members, packets: PacketOffer, why: str) -> None:
    members.offer("a", offer(2, "10.1.0.0/24"))
    before = members.of(members.hub)
    problem = members.offer("b", packets)
    assert problem.startswith(why)
    assert "b" in problem
    assert (members.map_for("b").nodes, members.map_for("b").problem) == ([], problem)
    assert members.map_for("a").problem == ""
    assert members.of(members.hub) == before
    assert members.refusals() == [problem]


def test_a_refused_change_takes_the_node_out_and_a_good_one_brings_it_back(members: Members) -> None:
    members.offer("a", offer(2, "10.1.0.0/24"))
    members.offer("b", offer(3, "10.2.0.0/24"))
    assert members.offer("b", offer(3, "10.1.0.0/16"))
    assert members.get("b") is None
    assert members.offer("b", offer(3, "10.2.0.0/24")) == ""
    assert members.refusals() == []


def test_who_waited_comes_in_when_the_other_leaves(members: Members) -> None:
    members.offer("a", offer(2, "10.1.0.0/24"))
    assert members.offer("b", offer(3, "10.1.0.0/24"))
    assert members.offer("c", offer(4, "10.1.0.0/24"))
    revision = members.revision
    members.forget("a")
    assert members.revision > revision
    assert members.names() == ["b"]
    assert "of b, which registered it first" in members.refusal("c")


def test_a_key_may_be_renewed_by_its_own_node(members: Members) -> None:
    members.offer("a", offer(2, "10.1.0.0/24"))
    assert members.offer("a", offer(5, "10.1.0.0/24")) == ""
    assert members.offer("b", offer(2, "10.2.0.0/24")) == ""


def test_the_registry_is_taken_back_in_the_order_of_joining(members: Members) -> None:
    members.load(
        [
            record("late", 2, "10.1.0.0/24", created=200.0),
            record("early", 3, "10.1.0.0/16", created=100.0),
            record("no-packets", None, created=50.0),
            record("spoilt", 4, "not a network", created=60.0),
        ]
    )
    assert members.names() == ["early"]
    assert "of early, which registered it first" in members.refusal("late")
    assert "(offered by node spoilt)" in members.refusal("spoilt")


def test_what_devices_can_do_is_passed_on(members: Members) -> None:
    can = msgspec.structs.replace(offer(2, "10.1.0.0/24"), superframes=["aes256gcm"])
    assert members.offer("a", can) == ""
    revision = members.revision
    members.describe_hub(probes=True, superframes=["aes256gcm", "chacha20poly1305"])
    assert members.revision == revision + 1
    members.describe_hub(probes=True, superframes=["aes256gcm", "chacha20poly1305"])
    assert members.revision == revision + 1
    hub, node = members.map_for("a").nodes
    assert (hub.probes, hub.superframes) == (True, ["aes256gcm", "chacha20poly1305"])
    assert (node.probes, node.superframes) == (False, ["aes256gcm"])


def test_agents_hear_where_the_hub_is_reached_now(members: Members) -> None:
    assert members.offer("a", offer(2, "10.1.0.0/24")) == ""
    port = members.map_for("a").nodes[0].endpoint.rpartition(":")[2]
    for host, shown in (("203.0.113.9", "203.0.113.9"), ("2001:db8::9", "[2001:db8::9]")):
        members.dial_hub_at(host)
        revision = members.revision
        members.dial_hub_at(host)
        assert members.revision == revision
        hub, node = members.map_for("a").nodes
        assert (hub.endpoint, node.endpoint) == (f"{shown}:{port}", "")


def test_a_stranger_is_told_nothing(members: Members) -> None:
    assert members.map_for("x").nodes == []
    assert members.map_for("x").problem == "node x has offered no packets"


def test_a_node_carries_what_somebody_allowed_and_nothing_else(members: Members) -> None:
    allowed = {"a": ["10.1.0.0/16"], "b": ["10.2.3.0/24", "fd00:2::/64"]}
    members.ranges = lambda node: [ip_network(text) for text in allowed.get(node, ())]
    assert members.offer("a", offer(2, "10.1.7.0/24")) == ""
    assert members.offer("b", offer(3, "10.2.3.0/24", "fd00:2::/64")) == ""
    outside = [("b", "10.2.0.0/16"), ("b", "10.1.8.0/24"), ("b", "fd00:2::/63"), ("c", "10.1.9.0/24")]
    for node, cidr in outside:
        problem = members.offer(node, offer(4, cidr))
        assert f"node {node} may not carry pod network {cidr}" in problem
        assert f"raven-gateway node allow {node} --pod-cidr {cidr}" in problem
        assert members.get(node) is None
        assert members.map_for(node).problem == problem
        assert members.map_for(node).nodes == []
    # A node without pods needs nobody's leave.
    assert members.offer("c", offer(4)) == ""


def test_what_is_taken_back_ends_with_the_next_look_and_what_is_allowed_begins(members: Members) -> None:
    ranges = [ip_network("10.1.0.0/16")]
    members.ranges = lambda node: ranges
    assert members.offer("a", offer(2, "10.1.7.0/24")) == ""
    ranges.clear()
    assert "may not carry" in members.offer("a", offer(2, "10.1.7.0/24"))
    assert members.get("a") is None
    ranges.append(ip_network("10.1.7.0/24"))
    assert members.offer("a", offer(2, "10.1.7.0/24")) == ""
    assert members.get("a") is not None


def test_what_the_registry_remembers_is_judged_as_well(members: Members) -> None:
    members.ranges = lambda node: [ip_network("10.1.0.0/16")]
    members.load([record("a", 2, "10.1.7.0/24", created=1.0), record("b", 3, "10.9.0.0/24", created=2.0)])
    assert members.names() == ["a"]


def test_each_node_meets_one_of_several_devices_and_the_others_not() -> None:
    hub = Member(
        name="gateway/g",
        public_key=key(1),
        endpoint="g.example.com:4500",
        pod_networks=parse_pod_networks_untrusted(["10.0.0.0/24"]),
        hub=True,
    )
    further = tuple(
        replace(hub, name=f"gateway/g/{n}", public_key=key(100 + n), endpoint=f"g.example.com:{4500 + n}")
        for n in (1, 2)
    )
    members = Members(hub, lambda node: ANY_RANGE, further=further)
    names = [f"n{number}" for number in range(2, 42)]
    for number, name in enumerate(names, 2):
        assert members.offer(name, offer(number, f"10.{number}.0.0/24")) == ""
    seen: dict[str, list[str]] = {}
    for name in names:
        nodes = members.map_for(name).nodes
        assert [node.hub for node in nodes] == [True] + [False] * len(names)
        assert nodes[0].public_key == members.device_of(name).public_key.to_base64()
        seen.setdefault(nodes[0].endpoint, []).append(name)
    assert len(seen) == 3
    for device in members.devices():
        carried = members.of(device)
        assert carried[0] is device
        assert [node.name for node in carried[1:]] == seen[device.endpoint]
    assert "key" in members.offer("thief", offer(101, "10.99.0.0/24"))
