"""What a node may carry, and who wins when two want the same."""

import hashlib
import ipaddress
from ipaddress import IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.keys import PublicKey
from raven.topology.model import (
    POD_NETWORKS_MAX,
    PROBE_NETWORK,
    Claims,
    IPNetwork,
    Member,
    find_conflicts,
    parse_pod_networks_untrusted,
    probe_address,
)


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def member(name: str, number: int, *networks: str) -> Member:
    return Member(name=name, public_key=key(number), pod_networks=parse_pod_networks_untrusted(networks))


def test_the_probe_network_is_the_ula_that_its_comment_derives() -> None:
    global_id = hashlib.sha256(b"raven probe network").digest()[:5]
    assert IPv6Network((b"\xfd" + global_id + bytes(10), 64)) == PROBE_NETWORK


def test_a_probe_address_depends_on_the_key_alone() -> None:
    assert probe_address(key(1)) == probe_address(key(1))
    assert probe_address(key(1)) != probe_address(key(2))
    assert probe_address(key(1)) in PROBE_NETWORK
    assert str(probe_address(key(0))) == "fd6b:aaf4:af96:0:139:1249:ee89:5625"  # printf, openssl dgst -sha256


def test_pod_networks_keep_their_order_and_lose_what_another_contains() -> None:
    texts = ["10.2.0.0/16", "fd00:1::/48", "10.1.0.0/24", "10.2.3.0/24", "10.1.0.0/24"]
    assert [str(network) for network in parse_pod_networks_untrusted(texts)] == [
        "10.2.0.0/16",
        "fd00:1::/48",
        "10.1.0.0/24",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0/0", "default route"),
        ("::/0", "default route"),
        ("0.0.0.0/1", "unspecified"),
        ("128.0.0.0/1", "too wide|overlaps"),
        ("8000::/1", "overlaps|too wide"),
        ("10.0.0.0/7", "too wide"),
        ("127.0.0.0/8", "loopback"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("169.254.1.0/24", "link-local"),
        ("fe80::/64", "link-local"),
        ("224.0.0.0/24", "multicast"),
        ("255.255.255.255/32", "multicast or broadcast"),
        ("ff02::/16", "multicast"),
        ("::ffff:10.0.0.0/104", "IPv4-mapped"),
        (str(PROBE_NETWORK), "probe network"),
        ("fd6b:aaf4:af96::/48", "probe network"),
        (str(probe_address(key(1))), "probe network"),
        ("10.1.0.5/24", r"did you mean 10\.1\.0\.0/24"),
        ("fd00::5/64", "did you mean fd00::/64"),
        ("fd00::%eth0/64", "zone|not an address"),
        ("ten", "not an address"),
        ("10.1.0.0/33", "not an address"),
        ("", "not an address"),
        ("10.1.0.0/24 ", "not an address"),
    ],
)
def test_what_no_node_may_carry_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(PeerError, match=why) as caught:
        parse_pod_networks_untrusted([text])
    assert caught.value.reason == "bad-pod-cidr"
    assert repr(text)[1:-1].strip() in str(caught.value)


def test_too_many_pod_networks_are_refused() -> None:
    parse_pod_networks_untrusted([f"10.{n // 256}.{n % 256}.0/24" for n in range(POD_NETWORKS_MAX)])
    with pytest.raises(PeerError, match=f"at most {POD_NETWORKS_MAX}"):
        parse_pod_networks_untrusted([f"10.{n // 256}.{n % 256}.0/24" for n in range(POD_NETWORKS_MAX + 1)])


@given(st.text(max_size=60))
def test_no_text_raises_anything_but_our_error(text: str) -> None:
    try:
        networks = parse_pod_networks_untrusted([text])
    except PeerError:
        return
    assert len(networks) == 1


def test_the_first_to_register_wins_and_the_sentence_names_both() -> None:
    hub, first, second = (
        member("hub", 1, "10.0.0.0/16"),
        member("a", 2, "10.1.0.0/24"),
        member("b", 3, "10.1.0.0/16"),
    )
    assert find_conflicts([hub, first, second]) == [
        (
            second,
            "pod network 10.1.0.0/16 of node b overlaps 10.1.0.0/24 of a, which registered it first",
        )
    ]
    assert [loser.name for loser, _ in find_conflicts([hub, second, first])] == ["a"]


def test_a_loser_holds_nothing() -> None:
    losers = find_conflicts(
        [
            member("a", 1, "10.1.0.0/24"),
            member("b", 2, "10.1.0.0/16", "10.2.0.0/16"),
            member("c", 3, "10.2.0.0/24"),
        ]
    )
    assert [loser.name for loser, _ in losers] == ["b"]


def test_a_key_or_a_name_serves_one_member() -> None:
    losers = find_conflicts([member("a", 1), member("b", 1), member("a", 2)])
    assert [(loser.name, why.split()[0:3]) for loser, why in losers] == [
        ("b", ["node", "b", "offers"]),
        ("a", ["the", "name", "a"]),
    ]


def test_holding_a_conflict_is_our_own_mistake() -> None:
    claims = Claims()
    claims.hold(member("a", 1))
    with pytest.raises(AssertionError):
        claims.hold(member("b", 1))


def test_what_is_released_is_free_for_the_next() -> None:
    claims = Claims()
    first, second = member("a", 1, "10.1.0.0/24", "fd00:1::/64"), member("b", 1, "10.1.0.0/16")
    other = member("c", 3, "10.0.0.0/16", "10.2.0.0/16")
    claims.hold(other)
    claims.hold(first)
    assert claims.conflict(second)
    claims.release(first)
    assert not claims.conflict(second)
    claims.hold(second)
    assert claims.conflict(member("d", 4, "10.2.1.0/24"))


def _network(version: int, bits: int, prefix: int) -> IPNetwork:
    # Few leading bits, so that nesting and equality are common.
    width = 32 if version == 4 else 128
    value = (bits << (width - 8)) >> (width - prefix) << (width - prefix)
    address = ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)
    return ipaddress.ip_network((address, prefix))


networks = st.builds(_network, st.sampled_from([4, 6]), st.integers(0, 255), st.integers(1, 10))


@settings(max_examples=200)
@given(st.lists(st.lists(networks, max_size=3), max_size=10))
def test_conflicts_are_those_of_a_pairwise_model(offers: list[list[IPNetwork]]) -> None:
    members = []
    for number, offered in enumerate(offers):
        own = [n for n in offered if not any(o.overlaps(n) and o.prefixlen < n.prefixlen for o in offered)]
        members.append(
            Member(name=f"n{number}", public_key=key(number), pod_networks=tuple(dict.fromkeys(own)))
        )
    winners: list[Member] = []
    losers: list[str] = []
    for one in members:
        clash = any(a.overlaps(b) for other in winners for a in other.pod_networks for b in one.pod_networks)
        losers.append(one.name) if clash else winners.append(one)
    assert [loser.name for loser, _ in find_conflicts(members)] == losers
