"""Between plans and devices: endpoints that roamed, and allowed IPs that are added without a gap."""

from ipaddress import ip_network

import pytest

from raven.keys import PublicKey
from raven.net.device_plan import observed, parse_endpoint, peer_change
from raven.topology.plan import PeerChange, PeerPlan, Plan, diff
from raven.wg import configuration as wg
from raven.wg.endpoint import Endpoint

KEY = PublicKey(bytes([7]) * 32)
A, B, C = (ip_network(f"10.{n}.0.0/24") for n in (1, 2, 3))


def device(endpoint: Endpoint | None) -> wg.DeviceState:
    return wg.DeviceState(
        peers=[wg.PeerState(public_key=KEY, endpoint=endpoint, keepalive=25, allowed_ips=[A, B])]
    )


def planned(endpoint: str) -> Plan:
    return Plan(
        peers=frozenset(
            {PeerPlan(public_key=KEY, endpoint=endpoint, keepalive=25, allowed_ips=frozenset({A, B}))}
        )
    )


@pytest.mark.parametrize(
    ("actual", "prescribed", "plan", "set_to"),
    [
        (Endpoint("192.0.2.9", 7), {KEY: "192.0.2.1:4500"}, "192.0.2.1:4500", None),  # it roamed
        (Endpoint("192.0.2.1", 4500), {}, "192.0.2.1:4500", None),  # found as it should be
        (Endpoint("192.0.2.9", 7), {}, "192.0.2.1:4500", "192.0.2.1:4500"),  # left by an earlier run
        (Endpoint("192.0.2.9", 7), {KEY: "192.0.2.1:4500"}, "192.0.2.2:4500", "192.0.2.2:4500"),  # moved
        (None, {}, "192.0.2.1:4500", "192.0.2.1:4500"),
        (Endpoint("192.0.2.9", 7), {}, "", None),  # a spoke, as a hub sees it
        (Endpoint("2001:db8::1", 4500), {}, "[2001:db8::1]:4500", None),
    ],
)
def test_when_an_endpoint_is_set(
    actual: Endpoint | None, prescribed: dict[PublicKey, str], plan: str, set_to: str | None
) -> None:
    changes = diff(observed(device(actual), planned(plan), prescribed), planned(plan))
    assert [change.endpoint for change in changes.peers_changed] == ([set_to] if set_to else [])


def test_an_added_network_replaces_nothing_and_a_removed_one_all() -> None:
    had = PeerPlan(public_key=KEY, allowed_ips=frozenset({A, B}))
    added = peer_change(PeerChange(public_key=KEY, allowed_ips=frozenset({A, B, C})), had)
    assert (added.replace_allowed_ips, added.allowed_ips) == (False, [C])
    removed = peer_change(PeerChange(public_key=KEY, allowed_ips=frozenset({A, C})), had)
    assert (removed.replace_allowed_ips, removed.allowed_ips) == (True, [A, C])
    untouched = peer_change(PeerChange(public_key=KEY, keepalive=25), had)
    assert untouched == wg.PeerChange(public_key=KEY, keepalive=25, allowed_ips=[])
    new = peer_change(PeerChange(public_key=KEY, allowed_ips=frozenset({A})), None)
    assert (new.replace_allowed_ips, new.allowed_ips) == (False, [A])


def superframes_asked_for(status: wg.Status | None, planned: str) -> list[str | None]:
    """What is asked of a device that has the one peer, and tells `status`."""
    plan = Plan(peers=frozenset({PeerPlan(public_key=KEY, superframes=planned)}))
    state = wg.DeviceState(peers=[wg.PeerState(public_key=KEY)])
    changes = diff(observed(state, plan, {}, status), plan)
    return [
        peer_change(change, None, raven=status is not None).superframes for change in changes.peers_changed
    ]


def test_superframes_are_switched_when_they_differ_and_never_on_a_foreign_device() -> None:
    off, on = (
        wg.Status(peers={KEY: wg.PeerStatus(superframes=one)}) for one in (wg.NO_SUPERFRAMES, "aes256gcm")
    )
    assert superframes_asked_for(off, "aes256gcm") == ["aes256gcm"]
    assert superframes_asked_for(on, "aes256gcm") == []
    assert superframes_asked_for(on, "chacha20poly1305") == ["chacha20poly1305"]
    assert superframes_asked_for(on, "") == [wg.NO_SUPERFRAMES]
    assert superframes_asked_for(off, "") == []
    assert superframes_asked_for(None, "aes256gcm") == []


def test_an_endpoint_no_longer_prescribed_is_left_to_the_peer() -> None:
    assert peer_change(PeerChange(public_key=KEY, endpoint=""), None).endpoint is None


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.1:4500", Endpoint("192.0.2.1", 4500)),
        ("[2001:db8::1]:4500", Endpoint("2001:db8::1", 4500)),
        ("gateway.example.com:4500", None),
        ("192.0.2.1", None),
        ("192.0.2.1:x", None),
        ("192.0.2.1:70000", None),
        ("192.0.2.1:-1", None),
        ("", None),
    ],
)
def test_only_numeric_endpoints_go_to_a_device(text: str, endpoint: Endpoint | None) -> None:
    assert parse_endpoint(text) == endpoint
