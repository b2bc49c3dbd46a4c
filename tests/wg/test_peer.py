"""The life of a peer in virtual time: renewal, refusal, keepalives, giving up, erasing, both ends at once."""

import itertools

import pytest

from raven.wg.configuration import DeviceChange, PeerChange
from raven.wg.constants import (
    ERASE_AFTER_TIME,
    KEEPALIVE_TIMEOUT,
    MAX_HANDSHAKE_ATTEMPTS,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
)
from raven.wg.events import HandshakeCompleted, HandshakeGaveUp, KeysErased
from raven.wg.keypair import Keypair
from raven.wg.staging import STAGED_MAX
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair

A4, B4 = "10.0.0.1", "10.0.0.2"
JITTER = 0.34  # seconds, more than REKEY_TIMEOUT_JITTER_MAX
RTT = 0.05  # seconds, more than the net's


def connected(seed: int = 0) -> tuple[Net, Host, Host]:
    net, a, b = pair(seed)
    a.send([packet(A4, B4)])
    net.run(1)
    b.packets.clear()
    net.sent.clear()
    a.events.clear()
    b.events.clear()
    return net, a, b


def current(host: Host) -> Keypair:
    (peer,) = host.device._peers
    keypair = peer._keypairs.current
    assert keypair is not None
    return keypair


def kinds(net: Net, source: Host) -> list[int]:
    """Types of the messages that `source` sent; a keepalive is 0."""
    return [0 if len(data) == 32 else data[0] for _, s, _, data in net.sent if s == source.endpoint]


def times(net: Net, source: Host, kind: int) -> list[float]:
    return [when for when, s, _, data in net.sent if s == source.endpoint and data[0] == kind]


def test_the_initiator_renews_keys_when_it_sends_after_two_minutes() -> None:
    net, a, b = connected()
    while net.now < REKEY_AFTER_TIME - 1:
        a.send([packet(A4, B4)])
        b.send([packet(B4, A4)])
        net.run(1)
    assert 1 not in kinds(net, a)
    net.run(2)
    b.send([packet(B4, A4)])
    net.run(1)
    assert 1 not in kinds(net, a) + kinds(net, b), "the responder does not renew"
    a.send([packet(A4, B4)])
    net.run(RTT)
    assert a.events == [HandshakeCompleted(b.public_key)]
    assert b.events == [HandshakeCompleted(a.public_key)]
    assert current(a).born > REKEY_AFTER_TIME
    assert a.drops() == b.drops() == {}


def test_renewal_loses_and_repeats_nothing() -> None:
    net, a, b = connected()
    sent = []
    for number in range(2000):
        p = packet(A4, B4, fill=number)
        sent.append(bytes(p))
        a.send([p])
        b.send([packet(B4, A4, fill=number)])
        net.run(0.25)
    assert b.packets == sent
    assert len(a.packets) == 2000
    assert 4 <= len(times(net, a, 1)) <= 5
    assert a.drops() == b.drops() == {}


def test_an_initiator_that_only_receives_renews_before_its_keys_are_refused() -> None:
    net, a, b = connected()
    while net.now < 400:
        b.send([packet(B4, A4)])
        net.run(1)
    born = times(net, a, 1)
    # Its keepalives are messages too, and so they renew after REKEY_AFTER_TIME already.
    assert REKEY_AFTER_TIME <= born[0] <= REKEY_AFTER_TIME + KEEPALIVE_TIMEOUT + 1
    assert b.drops() == a.drops() == {}


def test_renewal_on_receiving_without_any_answer_of_ours() -> None:
    """Section 6.2's last resort: 165 s after birth, without keepalives and with a mute other end."""
    net, a, b = connected()
    net.tap = lambda source, _, data: source == a.endpoint or data[0] != 1
    (peer,) = a.device._peers
    while net.now < 175:
        b.send([packet(B4, A4)])
        net.run(0.5)
        peer._timers._keepalive = float("inf")
    assert len(times(net, a, 1)) == 1
    assert 165 <= times(net, a, 1)[0] <= 167


def test_keys_are_refused_after_three_minutes() -> None:
    net, a, b = connected()
    a.send([packet(A4, B4)])
    (_, _, _, old) = net.sent[-1]
    net.run(1)
    net.tap = lambda *_: False
    net.run(REJECT_AFTER_TIME - net.now - 0.5)
    b.receive([old], a.endpoint)
    assert b.drops() == {"replayed": 1}, "not yet expired, only seen"
    net.run(1.0)
    b.receive([old], a.endpoint)
    assert b.drops()["keypair-expired"] == 1
    net.sent.clear()
    a.send([packet(A4, B4)])
    assert [d[0] for *_, d in net.sent] == [1], "nothing is sealed under old keys"


def test_rekey_and_reject_after_messages() -> None:
    net, a, b = connected()
    current(a).sent = REKEY_AFTER_MESSAGES
    net.run(REKEY_TIMEOUT)
    a.send([packet(A4, B4)])
    net.run(RTT)
    assert current(a).sent < 10
    net.run(REKEY_TIMEOUT)
    current(a).sent = REJECT_AFTER_MESSAGES - 1
    net.sent.clear()
    b.packets.clear()
    packets = [packet(A4, B4, fill=i) for i in range(3)]
    a.send(packets)
    net.run(RTT)
    assert b.packets == [bytes(p) for p in packets], "staged for the new keys, together"
    assert kinds(net, a)[0] == 1
    assert a.drops() == b.drops() == {}


def test_the_responder_may_renew_by_messages_too() -> None:
    net, _, b = connected()
    net.run(REKEY_TIMEOUT + 1)
    current(b).sent = REKEY_AFTER_MESSAGES
    b.send([packet(B4, A4)])
    net.run(RTT)
    assert kinds(net, b).count(1) == 1
    assert current(b).initiator


def test_a_keepalive_answers_data_after_ten_seconds() -> None:
    net, a, b = connected()
    net.run(2 * KEEPALIVE_TIMEOUT)
    net.sent.clear()
    a.send([packet(A4, B4)])
    net.run(KEEPALIVE_TIMEOUT)
    assert kinds(net, b) == []
    net.run(1)
    assert kinds(net, b) == [0]
    net.run(60)
    assert kinds(net, a) == [4]
    assert kinds(net, b) == [0], "a keepalive is not answered"


def test_no_answer_to_data_means_a_new_handshake() -> None:
    net, a, _ = connected()
    net.run(30)
    net.sent.clear()
    net.tap = lambda source, *_: source == a.endpoint
    a.send([packet(A4, B4)])
    start = net.now
    net.run(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + JITTER)
    assert [kind for kind in kinds(net, a) if kind] == [4, 1]
    assert times(net, a, 1)[0] - start >= KEEPALIVE_TIMEOUT + REKEY_TIMEOUT


def test_a_restarted_peer_is_noticed_in_fifteen_seconds() -> None:
    net, a, b = connected()
    net.run(10)
    for peer in b.device._peers:
        peer.erase_keys()
    b.packets.clear()
    while net.now < 29:
        a.send([packet(A4, B4)])
        net.run(1)
    assert b.packets
    assert b.drops()["unknown-index"] > 10


def test_retransmissions_keep_their_pace_then_stop() -> None:
    net, a, b = pair()
    net.tap = lambda *_: False
    a.send([packet(A4, B4)])
    net.run(300)
    sent = times(net, a, 1)
    assert len(sent) == 1 + MAX_HANDSHAKE_ATTEMPTS
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert all(REKEY_TIMEOUT <= gap <= REKEY_TIMEOUT + JITTER for gap in gaps)
    assert len({round(gap, 6) for gap in gaps}) > 10, "jittered"
    assert a.events == [HandshakeGaveUp(b.public_key)]
    assert a.drops() == {"handshake-failed": 1}
    assert len({data for *_, data in net.sent}) == len(sent), "each with a new ephemeral key"
    assert REKEY_ATTEMPT_TIME <= sent[-1] - sent[0] <= REKEY_ATTEMPT_TIME + 18 * JITTER

    a.send([packet(A4, B4)])
    net.run(1)
    assert len(times(net, a, 1)) == 2 + MAX_HANDSHAKE_ATTEMPTS, "new traffic tries again"


def test_packets_do_not_start_more_handshakes_than_one_in_five_seconds() -> None:
    net, a, _ = pair()
    net.tap = lambda *_: False
    while net.now < 4.5:
        a.send([packet(A4, B4)])
        net.run(0.1)
    assert len(net.sent) == 1


def test_staged_packets_are_bounded_and_the_newest_survive() -> None:
    net, a, b = pair()
    packets = [packet(A4, B4, 60, fill=i) for i in range(STAGED_MAX + 50)]
    for p in packets:
        a.send([p])
    net.run(1)
    assert b.packets == [bytes(p) for p in packets[50:]]
    assert a.drops() == {"staged-full": 50}


def test_keys_are_erased_after_nine_minutes_of_silence() -> None:
    net, a, b = connected()
    born = current(a).born
    net.run(born + ERASE_AFTER_TIME - net.now - 1)
    assert a.device._shared.keypairs
    net.run(2)
    for host in (a, b):
        assert host.device._shared.keypairs == {}
        assert host.device._shared.handshakes == {}
        assert host.device.next_timeout() is None
        assert isinstance(host.events[-1], KeysErased)


def test_persistent_keepalive_keeps_its_interval_and_the_keys_fresh() -> None:
    net, a, b = pair()
    a.configure(PeerChange(public_key=b.public_key, keepalive=25))
    net.run(600)
    sent = [when for when, s, *_ in net.sent if s == a.endpoint]
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert max(gaps) <= 25.1
    assert 4 <= len(times(net, a, 1)) <= 5
    assert b.device.state().peers[0].last_handshake > 0
    net.sent.clear()
    a.configure(PeerChange(public_key=b.public_key, keepalive=0))
    net.run(100)
    assert net.sent == []


def test_persistent_keepalive_survives_an_outage() -> None:
    net, a, b = pair()
    a.configure(PeerChange(public_key=b.public_key, keepalive=5))
    net.run(30)
    net.tap = lambda *_: False
    net.run(700)
    assert KeysErased(b.public_key) in a.events
    net.tap = None
    a.events.clear()
    net.run(12)
    assert HandshakeCompleted(b.public_key) in a.events


@pytest.mark.parametrize("seed", range(6))
def test_both_ends_initiate_at_once(seed: int) -> None:
    """The kernel's single handshake slot times out here and relies on jitter; we finish in a round trip."""
    net, a, b = pair(seed)
    a.send([packet(A4, B4, fill=1)])
    b.send([packet(B4, A4, fill=2)])
    net.run(0.2)
    assert b.packets == [bytes(packet(A4, B4, fill=1))]
    assert a.packets == [bytes(packet(B4, A4, fill=2))]
    for number in range(20):
        a.send([packet(A4, B4, fill=number)])
        b.send([packet(B4, A4, fill=number)])
        net.run(1)
    assert len(a.packets) == len(b.packets) == 21
    assert a.drops() == b.drops() == {}


@pytest.mark.parametrize("seed", range(8))
def test_ends_that_crossed_once_renew_in_turn_and_lose_nothing(seed: int) -> None:
    """Bulk both ways over a long path: no packet in flight meets a key that is gone."""
    net, a, b = pair(seed)
    net.delay = (0.15, 0.2)
    number = 0
    while net.now < 300:
        a.send([packet(A4, B4, fill=number)])
        b.send([packet(B4, A4, fill=number)])
        number += 1
        net.run(0.1)
    net.run(1)
    assert len(a.packets) == len(b.packets) == number
    assert a.drops() == b.drops() == {}
    initiations = times(net, a, 1) + times(net, b, 1)
    assert len([when for when in initiations if when < 1]) == 2
    assert len([when for when in initiations if when > 1]) == 2


def test_a_new_private_key_reconnects_at_once_with_who_knows_it() -> None:
    net, a, b = connected()
    c = net.host(b.endpoint._replace(host="192.0.2.3"), [])
    a.device.configure(DeviceChange(private_key=c.private_key), net.now)
    a.public_key, a.private_key = c.public_key, c.private_key
    b.add_peer(a)
    net.sent.clear()
    a.send([packet(A4, B4)])
    net.run(RTT)
    assert kinds(net, a)[0] == 1
    assert len(b.packets) == 1


def test_an_initiation_cannot_be_replayed() -> None:
    net, a, b = pair()
    a.send([packet(A4, B4)])
    net.run(1)
    initiation = next(data for *_, data in net.sent if data[0] == 1)
    net.sent.clear()
    b.receive([initiation], b.endpoint._replace(port=7))
    assert net.sent == []
    assert b.drops() == {"handshake-replay": 1}
    assert b.device.state().peers[0].endpoint == a.endpoint


def test_initiations_of_one_peer_are_limited() -> None:
    net, a, b = pair()
    (peer,) = a.device._peers
    messages = []
    for i in range(10):
        net.now = i * 0.02 + 1  # newer timestamps, but delivered within a millisecond
        peer._last_handshake_sent = float("-inf")
        peer.initiate(net.now)
        messages += [bytes(t.data) for t in a.device.transmits()]
    for i, message in enumerate(messages):
        net.now = 2 + i * 0.001
        b.receive([message], a.endpoint)
    assert b.drops()["handshake-flood"] == 9


def test_a_link_that_goes_down_forgets_keys_and_comes_back_at_once() -> None:
    net, a, b = connected()
    a.device.link_down()
    assert a.device._shared.keypairs == {}
    assert a.device.next_timeout() is None
    net.sent.clear()
    a.configure(PeerChange(public_key=b.public_key, keepalive=25))
    a.send([packet(A4, B4)])
    net.run(300)
    assert kinds(net, a) == [], "a device that is down starts nothing"
    a.device.link_up(net.now)
    net.collect(a)
    net.run(RTT)
    assert a.events == [HandshakeCompleted(b.public_key)]
    assert b.packets == [bytes(packet(A4, B4))]


def test_a_keepalive_configured_while_down_starts_with_the_link() -> None:
    net, a, b = pair()
    a.device.link_down()
    a.configure(PeerChange(public_key=b.public_key, keepalive=25))
    assert net.sent == []
    a.device.link_up(net.now)
    net.collect(a)
    assert kinds(net, a) == [1]
