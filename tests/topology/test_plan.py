"""Plans of a hub and its spokes, and that a difference of plans is exactly what has to change."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.keys import PublicKey
from raven.topology.model import PROBE_NETWORK, Member, probe_address
from raven.topology.plan import (
    PERSISTENT_KEEPALIVE,
    Changes,
    PeerChange,
    PeerPlan,
    Plan,
    RoutePlan,
    apply,
    diff,
    plan,
)


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def probe(number: int) -> IPv6Network:
    return IPv6Network(probe_address(key(number)))


HUB = Member(
    name="hub",
    public_key=key(1),
    endpoint="192.0.2.1:4500",
    pod_networks=(IPv4Network("10.0.0.0/16"),),
    hub=True,
)
A = Member(name="a", public_key=key(2), pod_networks=(IPv4Network("10.1.0.0/24"), IPv6Network("fd00:1::/64")))
B = Member(name="b", public_key=key(3), pod_networks=(IPv4Network("10.2.0.0/24"),))
SECOND_HUB = Member(
    name="hub2",
    public_key=key(4),
    endpoint="192.0.2.2:4500",
    pod_networks=(IPv4Network("10.9.0.0/16"),),
    hub=True,
)


def test_a_hub_peers_with_every_spoke_and_dials_none() -> None:
    assert plan([HUB, A, B], HUB.public_key) == Plan(
        peers=frozenset(
            {
                PeerPlan(public_key=A.public_key, allowed_ips=frozenset({*A.pod_networks, probe(2)})),
                PeerPlan(public_key=B.public_key, allowed_ips=frozenset({*B.pod_networks, probe(3)})),
            }
        ),
        routes=frozenset(RoutePlan(n) for n in (*A.pod_networks, *B.pod_networks, PROBE_NETWORK)),
        address=probe_address(HUB.public_key),
    )


def test_a_spoke_sends_everything_through_the_hub() -> None:
    allowed = frozenset({*HUB.pod_networks, *B.pod_networks, probe(1), PROBE_NETWORK})
    assert plan([HUB, A, B], A.public_key) == Plan(
        peers=frozenset(
            {
                PeerPlan(
                    public_key=HUB.public_key,
                    endpoint="192.0.2.1:4500",
                    keepalive=PERSISTENT_KEEPALIVE,
                    allowed_ips=allowed,
                )
            }
        ),
        routes=frozenset(RoutePlan(n) for n in (*HUB.pod_networks, *B.pod_networks, PROBE_NETWORK)),
        address=probe_address(A.public_key),
    )


def test_a_second_hub_carries_its_own_networks_and_no_allowed_ip_is_given_twice() -> None:
    made = plan([HUB, A, SECOND_HUB, B], A.public_key)
    peers = {peer.public_key: peer for peer in made.peers}
    assert peers[SECOND_HUB.public_key].allowed_ips == {*SECOND_HUB.pod_networks, probe(4)}
    assert not peers[HUB.public_key].allowed_ips & peers[SECOND_HUB.public_key].allowed_ips
    assert RoutePlan(SECOND_HUB.pod_networks[0]) in made.routes
    between_hubs = {peer.public_key: peer for peer in plan([HUB, A, SECOND_HUB, B], HUB.public_key).peers}
    assert between_hubs[SECOND_HUB.public_key].endpoint == "192.0.2.2:4500"


@pytest.mark.parametrize(
    ("hub", "spoke", "cipher"),
    [
        (("aes", "chacha"), ("aes", "chacha"), "aes"),
        (("aes", "chacha"), ("chacha",), "chacha"),
        (("chacha",), ("aes", "chacha"), "chacha"),
        (("chacha", "aes"), ("aes", "chacha"), "chacha"),  # the lower key's preference
        (("aes",), ("chacha",), ""),
        (("aes",), (), ""),  # an older raven-wg, wireguard-go, the kernel
        ((), ("aes",), ""),
    ],
)
def test_both_ends_take_the_same_cipher_or_none(
    hub: tuple[str, ...], spoke: tuple[str, ...], cipher: str
) -> None:
    members = [replace(HUB, superframes=hub), replace(A, superframes=spoke), B]
    assert {peer.superframes for peer in plan(members, A.public_key).peers} == {cipher}
    assert {peer.public_key: peer.superframes for peer in plan(members, HUB.public_key).peers} == {
        A.public_key: cipher,
        B.public_key: "",
    }


def test_no_plan_for_a_stranger_and_no_peer_without_a_hub() -> None:
    assert plan([HUB, A], key(9)) == Plan()
    assert plan([A, B], A.public_key) == Plan(address=probe_address(A.public_key))


def test_a_plan_never_routes_a_members_own_networks_to_the_device() -> None:
    for me in (HUB, A, B):
        own = {RoutePlan(network) for network in me.pod_networks}
        assert not own & plan([HUB, A, B], me.public_key).routes


def test_a_new_spoke_changes_nothing_about_the_others() -> None:
    changes = diff(plan([HUB, A], HUB.public_key), plan([HUB, A, B], HUB.public_key))
    assert changes == Changes(
        peers_changed=(
            PeerChange(public_key=B.public_key, allowed_ips=frozenset({*B.pod_networks, probe(3)})),
        ),
        address=probe_address(HUB.public_key),
        routes_added=frozenset({RoutePlan(B.pod_networks[0])}),
    )


def test_a_spoke_that_learns_a_network_does_not_set_back_the_hubs_endpoint() -> None:
    changes = diff(plan([HUB, A], A.public_key), plan([HUB, A, B], A.public_key))
    assert [(change.endpoint, change.keepalive) for change in changes.peers_changed] == [(None, None)]


def test_a_new_endpoint_is_all_that_changes_when_a_hub_moves() -> None:
    moved = Member(
        name="hub", public_key=key(1), endpoint="192.0.2.7:4500", pod_networks=HUB.pod_networks, hub=True
    )
    changes = diff(plan([HUB, A], A.public_key), plan([moved, A], A.public_key))
    assert changes.peers_changed == (PeerChange(public_key=HUB.public_key, endpoint="192.0.2.7:4500"),)
    assert not changes.routes_added
    assert not changes.routes_removed


def test_equal_plans_have_no_changes() -> None:
    made = plan([HUB, A, B], A.public_key)
    assert not diff(made, made)
    assert diff(Plan(), made)
    assert diff(made, Plan(address=made.address))


prefixes = st.sampled_from([ip_network(f"10.{n}.0.0/16") for n in range(4)] + [ip_network("fd00:1::/64")])
keys = st.integers(0, 3).map(key)
peers = st.builds(
    PeerPlan,
    public_key=keys,
    endpoint=st.sampled_from(["", "192.0.2.1:1", "192.0.2.2:2"]),
    keepalive=st.sampled_from([0, 25]),
    allowed_ips=st.frozensets(prefixes, max_size=3),
)
plans = st.builds(
    Plan,
    peers=st.lists(peers, unique_by=lambda peer: peer.public_key).map(frozenset),
    routes=st.frozensets(prefixes.map(RoutePlan)),
    address=st.none() | keys.map(probe_address),
)


@given(plans, plans)
def test_applying_the_difference_gives_the_new_plan(old: Plan, new: Plan) -> None:
    assert apply(old, diff(old, new)) == new


@given(plans, plans)
def test_a_difference_mentions_only_what_differs(old: Plan, new: Plan) -> None:
    changes = diff(old, new)
    before = {peer.public_key: peer for peer in old.peers}
    after = {peer.public_key: peer for peer in new.peers}
    for change in changes.peers_changed:
        assert before.get(change.public_key) != after[change.public_key]
        if (was := before.get(change.public_key)) is not None:
            for field in ("endpoint", "keepalive", "allowed_ips"):
                said = getattr(change, field)
                assert (said is None) == (getattr(was, field) == getattr(after[change.public_key], field))
    assert changes.peers_removed.isdisjoint(after)
    assert changes.routes_added.isdisjoint(old.routes)
    assert bool(changes) == (old != new)
