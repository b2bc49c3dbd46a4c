"""What a configuration does to the table of peers: the UAPI's rules, through `Device.configure`."""

import errno
import ipaddress

import pytest

import raven.wg.peers as peers_module
from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import (
    NO_PRIVATE_KEY,
    DeviceChange,
    IPNetwork,
    PeerChange,
    PeerState,
    UapiError,
)
from raven.wg.device import Device
from raven.wg.endpoint import Endpoint
from raven.wg.messages import tai64n
from raven.wg.primitives import DhPrivateKey
from tests.wg.packets import packet
from tests.wg.points import LOW_ORDER

PRIVATE = PrivateKey.clamped(bytes(range(32)))
A, B, C = (PublicKey(bytes([i]) * 32) for i in (9, 10, 11))
SOMEWHERE = Endpoint("192.0.2.7", 7)


def device() -> Device:
    counter = iter(range(1, 10_000))
    made = Device(
        tai64n=lambda: tai64n(next(counter), 0),
        random=lambda size: next(counter).to_bytes(size, "big"),
        wall=lambda: 1.0,
    )
    made.configure(DeviceChange(private_key=PRIVATE), 0.0)
    return made


def net(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)


def configure(d: Device, *peers: PeerChange, replace_peers: bool = False) -> None:
    d.configure(DeviceChange(peers=peers, replace_peers=replace_peers), 0.0)


def keys(d: Device) -> list[PublicKey]:
    return [peer.public_key for peer in d.state().peers]


def networks(d: Device, key: PublicKey) -> list[str]:
    (peer,) = [peer for peer in d.state().peers if peer.public_key == key]
    return [str(network) for network in peer.allowed_ips]


def test_state_tells_what_was_configured() -> None:
    d = device()
    change = PeerChange(
        public_key=A,
        preshared_key=PresharedKey(b"\x05" * 32),
        endpoint=SOMEWHERE,
        keepalive=25,
        allowed_ips=[net("10.0.0.0/8"), net("fd00::/8")],
    )
    d.configure(DeviceChange(listen_port=5, fwmark=6, peers=[change]), 0.0)
    state = d.state()
    assert (state.private_key, state.listen_port, state.fwmark) == (PRIVATE, 5, 6)
    tx_bytes = sum(len(transmit.data) for transmit in d.transmits())
    assert state.peers == [
        PeerState(
            public_key=A,
            preshared_key=PresharedKey(b"\x05" * 32),
            endpoint=SOMEWHERE,
            keepalive=25,
            tx_bytes=tx_bytes,
            allowed_ips=[net("10.0.0.0/8"), net("fd00::/8")],
        )
    ]


def test_fields_left_out_stay() -> None:
    d = device()
    configure(d, PeerChange(public_key=A, endpoint=SOMEWHERE, keepalive=25, allowed_ips=[net("10.0.0.0/8")]))
    before = d.state()
    configure(d, PeerChange(public_key=A))
    d.configure(DeviceChange(), 0.0)
    assert d.state() == before
    configure(d, PeerChange(public_key=A, keepalive=0, preshared_key=PresharedKey(bytes(32))))
    assert d.state().peers[0].keepalive == 0
    assert d.state().peers[0].endpoint == SOMEWHERE


def test_update_only_and_remove() -> None:
    d = device()
    configure(d, PeerChange(public_key=A), PeerChange(public_key=B, update_only=True, keepalive=1))
    assert keys(d) == [A]
    configure(
        d, PeerChange(public_key=A, update_only=True, keepalive=1), PeerChange(public_key=B, remove=True)
    )
    assert [(p.public_key, p.keepalive) for p in d.state().peers] == [(A, 1)]
    configure(d, PeerChange(public_key=A, remove=True))
    assert keys(d) == []


def test_replace_peers_comes_first() -> None:
    d = device()
    configure(d, PeerChange(public_key=A, allowed_ips=[net("10.0.0.0/8")]), PeerChange(public_key=B))
    configure(d, PeerChange(public_key=C), PeerChange(public_key=A), replace_peers=True)
    assert keys(d) == [C, A]
    assert networks(d, A) == []


def test_allowed_ips_move_and_go() -> None:
    d = device()
    configure(d, PeerChange(public_key=A, allowed_ips=[net("10.0.0.0/8"), net("10.1.0.0/16")]))
    configure(d, PeerChange(public_key=B, allowed_ips=[net("10.1.0.0/16")]))
    assert (networks(d, A), networks(d, B)) == (["10.0.0.0/8"], ["10.1.0.0/16"])
    configure(d, PeerChange(public_key=A, removed_allowed_ips=[net("10.0.0.0/8"), net("10.1.0.0/16")]))
    assert (networks(d, A), networks(d, B)) == ([], ["10.1.0.0/16"])
    configure(d, PeerChange(public_key=B, replace_allowed_ips=True, allowed_ips=[net("10.2.0.0/16")]))
    assert networks(d, B) == ["10.2.0.0/16"]
    configure(d, PeerChange(public_key=B, replace_allowed_ips=True))
    assert networks(d, B) == []


def test_remembered_owners_follow_every_change() -> None:
    d = device()
    probe = packet("10.9.9.9", "10.0.0.1")

    def reason() -> str:
        before = dict(d.counters)
        d.send([probe], 0.0)
        (changed,) = [key for key, count in d.counters.items() if count != before.get(key, 0)]
        return changed

    assert reason() == "no-peer"
    configure(d, PeerChange(public_key=A, allowed_ips=[net("10.0.0.0/8")]))
    assert reason() == "no-endpoint"
    configure(d, PeerChange(public_key=A, removed_allowed_ips=[net("10.0.0.0/8")]))
    assert reason() == "no-peer"
    configure(d, PeerChange(public_key=A, allowed_ips=[net("10.0.0.0/8")]))
    assert reason() == "no-endpoint"
    configure(d, PeerChange(public_key=A, remove=True))
    assert reason() == "no-peer"
    for i in range(5000):
        d.send([packet("10.9.9.9", f"10.1.{i >> 8}.{i & 255}")], 0.0)
    assert len(d._peers._owners) <= 4096


def test_the_own_key_as_a_peer_is_ignored() -> None:
    d = device()
    own = DhPrivateKey(PRIVATE).public
    configure(d, PeerChange(public_key=own, endpoint=SOMEWHERE), PeerChange(public_key=A))
    assert keys(d) == [A]
    other = PrivateKey.clamped(bytes(range(1, 33)))
    configure(d, PeerChange(public_key=DhPrivateKey(other).public, allowed_ips=[net("10.0.0.0/8")]))
    assert len(keys(d)) == 2
    d.configure(DeviceChange(private_key=other), 0.0)
    assert keys(d) == [A]


def test_private_keys_are_clamped_and_can_go() -> None:
    d = device()
    d.configure(DeviceChange(private_key=PrivateKey(b"\xff" * 32)), 0.0)
    assert d.state().private_key == PrivateKey.clamped(b"\xff" * 32)
    d.configure(DeviceChange(private_key=NO_PRIVATE_KEY), 0.0)
    assert d.state().private_key == NO_PRIVATE_KEY
    configure(d, PeerChange(public_key=A, endpoint=SOMEWHERE, keepalive=5, allowed_ips=[net("10.0.0.0/8")]))
    d.send([packet("10.9.9.9", "10.0.0.1")], 0.0)
    assert d.transmits() == []
    assert d.counters == {"no-private-key": 1}
    d.configure(DeviceChange(private_key=PRIVATE), 0.0)
    assert len(d.transmits()) == 1, "a persistent keepalive needs no traffic to begin"


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_peers_get_no_packet(point: str) -> None:
    d = device()
    configure(
        d,
        PeerChange(
            public_key=PublicKey.from_hex(point),
            endpoint=SOMEWHERE,
            keepalive=1,
            allowed_ips=[net("10.0.0.0/8")],
        ),
    )
    for now in range(200):
        d.send([packet("10.9.9.9", "10.0.0.1")], float(now))
        d.handle_timeout(float(now))
    assert d.transmits() == []
    assert d.counters["weak-key"] > 0
    assert d.state().peers[0].tx_bytes == 0


def test_too_many_peers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "PEERS_MAX", 2)
    d = device()
    configure(d, PeerChange(public_key=A))
    before = d.state()
    with pytest.raises(UapiError) as info:
        d.configure(DeviceChange(fwmark=9, peers=[PeerChange(public_key=B), PeerChange(public_key=C)]), 0.0)
    assert info.value.errno == errno.ENOMEM
    assert d.state() == before
    configure(d, PeerChange(public_key=B), PeerChange(public_key=C), replace_peers=True)
    assert keys(d) == [B, C]


def test_a_persistent_keepalive_starts_at_once() -> None:
    d = device()
    configure(d, PeerChange(public_key=A, keepalive=25))
    assert d.transmits() == []
    configure(d, PeerChange(public_key=A, endpoint=SOMEWHERE))
    (initiation,) = d.transmits()
    assert initiation.endpoint == SOMEWHERE
    assert len(initiation.data) == 148
    configure(d, PeerChange(public_key=A, keepalive=25, endpoint=SOMEWHERE))
    assert d.transmits() == []


def test_a_removed_peer_leaves_nothing_behind() -> None:
    d = device()
    configure(d, PeerChange(public_key=A, endpoint=SOMEWHERE, keepalive=5, allowed_ips=[net("10.0.0.0/8")]))
    d.send([packet("10.9.9.9", "10.0.0.1")], 0.0)
    configure(d, replace_peers=True)
    shared = d._shared
    assert (shared.handshakes, shared.keypairs, shared.staging.used) == ({}, {}, 0)
    assert d.next_timeout() is None
    assert d.counters["handshake-failed"] == 1


def test_a_long_change_is_prepared_in_steps_and_applied_at_once() -> None:
    """Until then each packet goes where it went before, however many networks have moved on paper."""
    d = device()
    many = [ipaddress.ip_network((i << 8, 24)) for i in range(0x0A0000, 0x0A0000 + 5000)]
    configure(d, PeerChange(public_key=A, allowed_ips=[net("fd00::/8"), *many]), PeerChange(public_key=B))
    before = d.state()
    change = DeviceChange(
        peers=[
            PeerChange(public_key=A, replace_allowed_ips=True, allowed_ips=[net("fd00::/9")]),
            PeerChange(public_key=B, allowed_ips=many),
            PeerChange(public_key=C, allowed_ips=many[-1:]),
        ]
    )
    steps = d.preparing(change)
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            prepared = end.value
            break
        count += 1
        assert d.state() == before
        owner = d._peers.owner_of(0x0A000001 + count * 256)
        assert owner is not None
        assert owner.public_key == A
    assert count == 10_003 // peers_module._STEP
    assert d.state() == before
    d.apply(change, prepared, 0.0)
    assert networks(d, A) == ["fd00::/9"]
    assert networks(d, B) == [str(network) for network in many[:-1]]
    assert networks(d, C) == [str(many[-1])]
    assert d._peers.owner_of(0x0A000001) is d._peers.get(B)


def test_a_private_key_that_makes_a_peer_ourselves_takes_its_networks_too() -> None:
    d = device()
    own = DhPrivateKey(PRIVATE).public
    d.configure(DeviceChange(private_key=NO_PRIVATE_KEY), 0.0)
    configure(d, PeerChange(public_key=own, allowed_ips=[net("10.0.0.0/8")]))
    assert keys(d) == [own]
    d.configure(DeviceChange(private_key=PRIVATE, peers=[PeerChange(public_key=A)]), 0.0)
    assert keys(d) == [A]
    assert d._peers.owner_of(0x0A000001) is None


def test_a_new_private_key_is_shown_to_the_peers_that_stay_and_where_they_are_by_then() -> None:
    d = device()
    new = PrivateKey.clamped(bytes(range(1, 33)))
    elsewhere = Endpoint("192.0.2.8", 8)
    kept = PeerChange(public_key=A, endpoint=SOMEWHERE, keepalive=25)
    configure(d, kept, PeerChange(public_key=B, endpoint=SOMEWHERE, keepalive=25))
    d.transmits()
    moved = (PeerChange(public_key=A, endpoint=elsewhere), PeerChange(public_key=B, remove=True))
    d.configure(DeviceChange(private_key=new, peers=moved), 0.0)
    assert [transmit.endpoint for transmit in d.transmits()] == [elsewhere]
    # As `wg setconf` does it. A second initiation would make the answer to the first one void.
    d.configure(DeviceChange(private_key=PRIVATE, replace_peers=True, peers=[kept]), 0.0)
    assert [transmit.endpoint for transmit in d.transmits()] == [SOMEWHERE]
    d.configure(DeviceChange(private_key=new, replace_peers=True), 0.0)
    assert d.transmits() == []
