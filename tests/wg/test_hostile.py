"""Datagrams by people who mean harm, while an honest pair connects, transfers and renews its keys.

Random, truncated, extended, bit-flipped and replayed datagrams from many places, some with indices that are
in use. Nothing may raise, stop the pair, move its endpoints, or make the device grow.
"""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.wg.endpoint import Endpoint
from raven.wg.outbox import Drop
from tests.wg.hostile import hostile_datagram
from tests.wg.packets import packet
from tests.wg.pair import pair
from tests.wg.points import LOW_ORDER

A4, B4 = "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize("seed", range(3))
def test_a_pair_under_hostile_datagrams(seed: int) -> None:
    net, a, b = pair(seed)
    sent: list[bytes] = []
    honest = {a.endpoint, b.endpoint}
    number = 0
    while net.now < 300:
        burst = [packet(A4, B4, 200, fill=number * 8 + i) for i in range(4)]
        sent += map(bytes, burst)
        a.send(burst)
        b.send([packet(B4, A4, fill=number)])
        net.run(0.05)
        for _ in range(20):
            source = Endpoint(f"198.51.100.{net.random.randrange(256)}", net.random.randrange(1, 65536))
            target = net.random.choice([a, b])
            target.receive([hostile_datagram(net, target)], source)
        net.run(0.95)
        number += 1
        for host, other in ((a, b), (b, a)):
            assert host.device.state().peers[0].endpoint in (other.endpoint, None)
            assert len(host.device._shared.keypairs) <= 4
            assert len(host.device._shared.handshakes) <= 1
    del net.sent[:]
    assert [p for p in b.packets if p in set(sent)] == b.packets
    assert len(set(b.packets)) == len(b.packets)
    # The honest share the load with the attackers; a lost handshake costs five seconds of packets.
    assert len(b.packets) >= 0.95 * len(sent)
    assert len(a.packets) >= 0.95 * number
    for host in (a, b):
        assert set(host.drops()) <= set(Drop)
        assert sum(host.drops().values()) > 500
    assert honest == {a.endpoint, b.endpoint}


@settings(max_examples=60, deadline=None)
@given(datagrams=st.lists(st.binary(max_size=300), max_size=20))
def test_random_bursts_never_raise(datagrams: list[bytes]) -> None:
    net, a, b = pair()
    a.send([packet(A4, B4)])
    net.run(1)
    state = b.device.state()
    b.receive(datagrams, Endpoint("198.51.100.1", 1))
    assert b.device.state() == state
    assert sum(b.drops().values()) == len(datagrams)


def test_every_truncation_and_extension_of_every_message() -> None:
    net, a, b = pair()
    a.send([packet(A4, B4)])
    net.run(1)
    by_a = [data for _, s, _, data in net.sent if s == a.endpoint]
    by_b = [data for _, s, _, data in net.sent if s == b.endpoint]
    for target, messages in ((b, by_a), (a, by_b)):
        state = target.device.state()
        before = sum(target.drops().values())
        count = 0
        for message in messages:
            for size in range(len(message)):
                target.receive([message[:size]], Endpoint("198.51.100.1", 1))
                count += 1
            target.receive([message + b"\0", message + bytes(40)], Endpoint("198.51.100.1", 1))
            count += 2
        assert target.device.state() == state
        assert sum(target.drops().values()) == before + count


def test_low_order_ephemerals_cost_little_and_do_nothing() -> None:
    from raven.wg.cookie import MacGenerator
    from raven.wg.messages import Initiation

    net, _, b = pair()
    for point in LOW_ORDER:
        body = Initiation(1, bytes.fromhex(point), bytes(48), bytes(28)).encode()
        b.receive([MacGenerator(b.public_key).add_macs(body, 0.0)], Endpoint("198.51.100.1", 1))
    assert b.drops() == {"weak-key": len(LOW_ORDER)}
    assert net.sent == []


def test_a_datagram_of_the_largest_size() -> None:
    net, a, b = pair(mtu=65000)
    a.send([packet(A4, B4)])
    net.run(1)
    (index,) = b.device._shared.keypairs
    big = struct.pack("<IIQ", 4, index, 99).ljust(65507, b"x")
    b.receive([big, big, big], a.endpoint)
    b.receive([bytes(1 << 17)], a.endpoint)
    assert b.drops() == {"authentication": 3, "malformed": 1}
