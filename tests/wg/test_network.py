"""Two devices over a bad network, in virtual time: nothing invented, nothing twice, and it always heals."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.keys import PresharedKey
from raven.wg.configuration import PeerChange
from raven.wg.constants import REKEY_TIMEOUT
from raven.wg.endpoint import Endpoint
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair

A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"


def talk(net: Net, a: Host, b: Host, seconds: float, *, step: float = 0.5) -> tuple[list[bytes], list[bytes]]:
    """Both ends send small bursts; returns what a and b sent."""
    by_a: list[bytes] = []
    by_b: list[bytes] = []
    end = net.now + seconds
    number = 0
    while net.now < end:
        burst = [packet(A4, B4, 300 + number % 900, fill=number * 8 + i) for i in range(number % 6)]
        a.send(burst)
        by_a += map(bytes, burst)
        burst = [packet(B6, A6, 100, fill=number * 8 + i) for i in range(number % 4)]
        b.send(burst)
        by_b += map(bytes, burst)
        number += 1
        net.run(step)
    return by_a, by_b


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    duplication=st.sampled_from([0.0, 0.2]),
    longest=st.sampled_from([0.01, 0.3, 2.0]),
)
def test_a_bad_network(seed: int, loss: float, duplication: float, longest: float) -> None:
    net, a, b = pair(seed, preshared_key=PresharedKey(b"\x09" * 32))
    net.loss, net.duplication, net.delay = loss, duplication, (0.001, longest)
    by_a, by_b = talk(net, a, b, 300)

    for sent, host in ((by_a, b), (by_b, a)):
        got = Counter(host.packets)
        assert got <= Counter(sent), "something was invented or came twice"
        if loss == 0.0 and longest < 1:
            assert got == Counter(sent)
        else:
            # Each packet needs its datagram, and keys on both ends; the handshakes take their losses too.
            assert len(host.packets) > len(sent) * (1 - loss) * 0.75
        assert set(host.drops()) <= {"replayed", "handshake-replay", "unknown-index", "keypair-expired"}

    net.loss, net.duplication, net.delay = 0.0, 0.0, (0.01, 0.01)
    net.run(REKEY_TIMEOUT + 3)
    a.packets.clear()
    b.packets.clear()
    by_a, by_b = talk(net, a, b, 20)
    assert (a.packets, b.packets) == (by_b, by_a), "it heals at once"


def test_reordering_within_the_window_loses_nothing() -> None:
    net, a, b = pair()
    a.send([packet(A4, B4)])
    net.run(1)
    b.packets.clear()
    net.delay = (0.01, 1.0)
    sent = [packet(A4, B4, 100, fill=i) for i in range(3000)]
    a.send(sent)
    net.run(2)
    assert b.packets != [bytes(p) for p in sent]
    assert Counter(b.packets) == Counter(bytes(p) for p in sent)


@pytest.mark.parametrize("to", [Endpoint("198.51.100.7", 9), Endpoint("2001:db8::7", 9)])
def test_roaming(to: Endpoint) -> None:
    """a moves, to another IPv4 address or to IPv6; what it sends next takes b along."""
    net, a, b = pair()
    talk(net, a, b, 3)
    a.endpoint = to
    b.send([packet(B4, A4)])
    net.run(0.1)
    a.packets.clear()
    a.send([packet(A4, B4)])
    net.run(0.1)
    b.send([packet(B4, A4)])
    net.run(0.1)
    assert a.packets == [bytes(packet(B4, A4))]
    assert b.device.state().peers[0].endpoint == to


def test_both_ends_roam_in_turn_and_the_responder_learns_the_first_endpoint() -> None:
    net = Net(5)
    a = net.host(Endpoint("192.0.2.1", 1), ["10.0.0.1/32"])
    b = net.host(Endpoint("192.0.2.2", 2), ["10.0.0.2/32"])
    a.add_peer(b)
    b.add_peer(a, knows_endpoint=False)
    b.send([packet(B4, A4)])
    assert b.drops() == {"no-endpoint": 1}
    for number in range(10):
        mover, other = (a, b) if number % 2 else (b, a)
        a.send([packet(A4, B4, fill=number)])
        net.run(0.1)
        mover.endpoint = mover.endpoint._replace(port=100 + number)
        mover.send([packet(A4 if mover is a else B4, B4 if mover is a else A4, fill=number)])
        net.run(0.1)
        assert other.device.state().peers[0].endpoint == mover.endpoint
    assert len(b.packets) == 15


def test_a_hub_forwards_between_two_spokes() -> None:
    """What comes out of one peer may go into another; owners and keys never mix."""
    net = Net(8)
    hub = net.host(Endpoint("192.0.2.100", 1), ["10.0.0.100/32"])
    spokes = [net.host(Endpoint(f"192.0.2.{i}", 1), [f"10.{i}.0.0/16"]) for i in (1, 2, 3)]
    for spoke in spokes:
        hub.add_peer(spoke, knows_endpoint=False)
        spoke.add_peer(hub, keepalive=25)
        spoke.configure(
            PeerChange(
                public_key=hub.public_key,
                allowed_ips=[net_ for peer in hub.device.state().peers for net_ in peer.allowed_ips],
            )
        )
        # The hub's list grows as spokes join; the last spoke to join knows all, so give everyone everything.
    everything = [net_ for peer in hub.device.state().peers for net_ in peer.allowed_ips]
    for spoke in spokes:
        spoke.configure(PeerChange(public_key=hub.public_key, allowed_ips=everything))
    net.run(1)
    message = packet("10.1.0.5", "10.3.0.9", 500)
    spokes[0].send([message])
    net.run(0.1)
    hub.send([memoryview(p) for p in hub.packets])
    net.run(0.1)
    assert spokes[2].packets == [bytes(message)]
    assert spokes[1].packets == []
    for host in net.hosts:
        assert host.drops() == {}
