"""Hostile fragments: by strangers, by onlookers, and by a peer that has the keys."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.ip import header as h
from raven.wg.configuration import NO_SUPERFRAMES, PeerChange
from raven.wg.endpoint import Endpoint
from raven.wg.reassembly import PARTIAL_BYTES_MAX, PARTIAL_COST_MAX, PARTIALS_MAX
from tests.wg.superframes import catch, fragments, switch, told
from tests.wg.superpackets import superpacket


def test_a_frame_is_taken_once() -> None:
    net, a, b = told()
    caught = catch(net, a)
    for _ in range(3):
        b.receive(caught, a.endpoint)
        b.receive(caught[::-1], a.endpoint)
    assert len(b.superpackets) == 1
    assert b.drops() == {"replayed": 5 * len(caught)}
    assert b.device._shared.reassembly.used == 0


def test_without_the_index_and_the_tag_nothing_is_kept() -> None:
    """A stranger who sees nothing: each fragment is dropped before anything is kept of it."""
    net, a, b = told()
    genuine = catch(net, a)
    random = Random(1)
    for data in genuine:
        other_index = data[:4] + random.randbytes(4) + data[8:]
        other_tag = data[:12] + random.randbytes(4) + data[16:]
        other_counter = data[:8] + random.randbytes(2) + data[10:]
        b.receive([other_index, other_tag, other_counter], Endpoint("203.0.113.1", 1))
    count = len(genuine)
    assert b.drops() == {"unknown-index": count, "superframe-tag": 2 * count}
    assert b.device._shared.reassembly.used == 0
    b.receive(genuine, a.endpoint)
    assert len(b.superpackets) == 1


def test_a_fragment_in_between_harms_one_frame_at_most() -> None:
    """Someone who sees the path and adds to it: the burst path fails, each is looked at alone."""
    net, a, b = told()
    caught = catch(net, a)
    forged = caught[3][:16] + bytes(len(caught[3]) - 16)
    b.receive([*caught[:4], forged, *caught[4:]], a.endpoint)
    assert len(b.superpackets) == 1, "the genuine one was first"
    caught = catch(net, a, 1)
    b.receive([*caught[:3], forged[:8] + caught[0][8:16] + forged[16:], *caught[3:]], a.endpoint)
    assert len(b.superpackets) == 1
    assert b.drops()["authentication"] == 1
    caught = catch(net, a, 2)
    b.receive(caught, a.endpoint)
    assert len(b.superpackets) == 2


def test_what_is_incomplete_is_given_up_in_time() -> None:
    net, a, b = told()
    b.receive(catch(net, a)[:-1], a.endpoint)
    assert b.device._shared.reassembly.used > 60000
    net.run(1.2)
    assert b.device._shared.reassembly.used == 0
    assert b.drops() == {"superframe-incomplete": 1}


def test_what_is_incomplete_when_its_keys_go_is_counted() -> None:
    net, a, b = told()
    b.receive(catch(net, a)[:3], a.endpoint)
    b.device.link_down()
    assert b.drops() == {"superframe-incomplete": 1}
    assert b.device._shared.reassembly.used == 0


def test_what_is_incomplete_when_superframes_end_is_counted() -> None:
    net, a, b = told()
    b.receive(catch(net, a)[:3], a.endpoint)
    switch(b, a, NO_SUPERFRAMES)
    assert b.drops() == {"superframe-incomplete": 1}


def test_what_an_onlooker_can_make_a_device_keep_is_bounded() -> None:
    """Fragments of real frames, each frame never whole, as many as there are."""
    net, a, b = told()
    for fill in range(200):
        net.tap = lambda *_: False
        already = len(fragments(net))
        if a.send_superpacket(superpacket(fill)):
            b.receive(fragments(net)[already:-1], a.endpoint)
        net.tap = None
        net.run(0.5)
        assert b.device._shared.reassembly.used <= 9 * 65536
    assert b.superpackets == []


def test_what_an_onlooker_can_make_of_real_headers_is_bounded() -> None:
    """Header and tag of a real fragment, and the longest datagram behind them, in each slot of each frame."""
    net, a, b = told()
    for fill in range(PARTIALS_MAX + 3):
        header = catch(net, a, fill)[0][:16]
        for number in range(63):
            forged = header[:1] + bytes([number, 63, 0]) + header[4:] + bytes(65491)
            b.receive([forged], Endpoint("203.0.113.1", 1))
    held = b.device._shared.reassembly.used
    assert 0 < held <= PARTIALS_MAX * PARTIAL_COST_MAX < PARTIAL_BYTES_MAX / 7
    net.run(1.2)
    assert b.device._shared.reassembly.used == 0
    assert b.superpackets == []


def test_fragments_from_elsewhere_move_no_peer() -> None:
    net, a, b = told()
    caught = catch(net, a)
    elsewhere = Endpoint("203.0.113.1", 1)
    b.receive(caught[:10], elsewhere)
    b.receive(caught[10:], a.endpoint)
    assert len(b.superpackets) == 1
    assert b.device.state().peers[0].endpoint == a.endpoint
    caught = catch(net, a, 1)
    b.receive(caught, elsewhere)
    assert b.device.state().peers[0].endpoint == elsewhere, "all of it: that is roaming"


def test_a_superpacket_from_an_address_that_is_not_the_peers() -> None:
    net, a, b = told()
    b.configure(PeerChange(public_key=a.public_key, replace_allowed_ips=True))
    for version in (4, 6):
        assert a.send_superpacket(superpacket(version=version, size=1000))
    net.run(1)
    assert b.superpackets == []
    assert b.drops() == {"source-not-allowed": 2}


def test_what_is_no_superpacket_inside_is_dropped() -> None:
    """A peer with the keys and bad intentions."""
    net, a, b = told()
    peer = next(iter(a.device._peers))
    for content in (bytes(100), b"\x45" + bytes(99), superpacket()[h.VIRTIO_LEN :][:500]):
        room = memoryview(bytearray(70000))
        room[10 : 10 + len(content)] = content
        assert peer.send_superpacket(
            room, 10, len(content), gso_size=100, segment=1000, tos=0, hops=0, now=net.now
        )
        net.collect(a)
    net.run(1)
    assert b.superpackets == []
    assert b.drops() == {"inner-malformed": 3}


@settings(deadline=None)
@given(data=st.binary(min_size=16, max_size=200), right=st.booleans())
def test_fuzzed_fragments(data: bytes, right: bool) -> None:
    """Random bytes of the type, with the right index or any."""
    net, a, b = told()
    index = next(iter(b.device._shared.keypairs)).to_bytes(4, "little")
    body = b"\x52" + data[1:4] + (index if right else data[4:8]) + data[8:]
    b.receive([body, body[:40], body[::-1], body[:1]], a.endpoint)
    assert b.superpackets == []
    assert b.device._shared.reassembly.used == 0
    a.send_superpacket(superpacket())
    net.run(1)
    assert len(b.superpackets) == 1


@pytest.mark.parametrize("length", [0, 1, 2, 15, 16, 31])
def test_a_last_fragment_without_a_header(length: int) -> None:
    net, a, b = told()
    caught = catch(net, a)
    b.receive([*caught[:-1], caught[-1][:length]], a.endpoint)
    assert b.superpackets == []
    b.receive([caught[-1]], a.endpoint)
    assert len(b.superpackets) == 1


def test_random_damage_to_genuine_fragments() -> None:
    random = Random(7)
    for fill in range(30):
        net, a, b = told(fill)
        caught = catch(net, a, fill)
        damaged = list(caught)
        for _ in range(3):
            at = random.randrange(len(damaged))
            kind = random.randrange(3)
            if kind == 0:
                damaged[at] = damaged[at][: random.randrange(17, len(damaged[at]))]
            elif kind == 1:
                position = random.randrange(len(damaged[at]))
                flipped = damaged[at][position] ^ 1 << random.randrange(8)
                damaged[at] = damaged[at][:position] + bytes([flipped]) + damaged[at][position + 1 :]
            else:
                damaged.insert(at, damaged[at])
        b.receive(damaged, a.endpoint)
        assert b.superpackets in ([], [superpacket(fill)])
