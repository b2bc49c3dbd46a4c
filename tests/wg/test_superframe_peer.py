"""Two devices with superframes in virtual time: over good, bad and hostile networks."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.ip import header as h
from raven.wg.configuration import NO_SUPERFRAMES, PeerChange, SuperframeCipher
from raven.wg.constants import REKEY_AFTER_TIME
from raven.wg.device import Transmit
from raven.wg.endpoint import Endpoint
from raven.wg.reassembly import PARTIAL_BYTES_MAX, PARTIAL_COST_MAX, PARTIALS_MAX
from raven.wg.stepdown import TRIAL_FRAMES
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair
from tests.wg.superpackets import superpacket

A4, B4 = "10.0.0.1", "10.0.0.2"
AES, CHACHA = SuperframeCipher.AES256GCM, SuperframeCipher.CHACHA20POLY1305


def switch(host: Host, other: Host, superframes: str) -> None:
    host.configure(PeerChange(public_key=other.public_key, update_only=True, superframes=superframes))


def told(seed: int = 0, *, cipher: SuperframeCipher = AES, mtu: int = 1420) -> tuple[Net, Host, Host]:
    """A pair that knows of each other's superframes and has keys."""
    net, a, b = pair(seed, mtu=mtu)
    switch(a, b, cipher)
    switch(b, a, cipher)
    a.send([packet(A4, B4)])
    net.run(1)
    a.packets.clear()
    b.packets.clear()
    net.sent.clear()
    return net, a, b


def fragments(net: Net) -> list[bytes]:
    return [data for _, _, _, data in net.sent if data[0] == 0x52]


def cut(transmit: Transmit) -> list[bytes]:
    step = transmit.segment_size
    return [bytes(transmit.data[at : at + step]) for at in range(0, len(transmit.data), step)]


def datagrams(host: Host) -> list[bytes]:
    """What the device wants sent, taken from it before the net is."""
    return [data for transmit in host.device.transmits() for data in cut(transmit)]


def counters(host: Host) -> tuple[int, int]:
    (peer,) = host.device.status().peers.values()
    return peer.tx_superframes, peer.rx_superframes


def prove(net: Net, a: Host) -> None:
    """Gets over the trial."""
    for fill in range(TRIAL_FRAMES):
        assert a.send_superpacket(superpacket(fill, segments=3))
    net.run(0.5)


@pytest.mark.parametrize("cipher", list(SuperframeCipher))
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize("segments", [2, 3, 45, 47])
def test_a_superpacket_arrives_as_it_was(
    cipher: SuperframeCipher, version: int, tcp: bool, segments: int
) -> None:
    net, a, b = told(cipher=cipher)
    sent = [superpacket(fill, segments=segments, size=1348, version=version, tcp=tcp) for fill in range(5)]
    assert all(a.send_superpacket(one) for one in sent)
    net.run(1)
    assert b.superpackets == sent
    assert b.drops() == a.drops() == {}
    assert (counters(a), counters(b)) == ((5, 0), (0, 5))
    largest = -(-(1348 + 20 + (20 if version == 6 else 0) + (32 if tcp else 8)) // 16) * 16 + 32
    sizes = {len(data) for data in fragments(net)}
    assert max(sizes) <= min(largest, 1452), "never longer than the segments' datagrams would be"
    assert len(fragments(net)) <= 5 * segments


def test_transfer_counts_the_datagrams() -> None:
    net, a, b = told()
    before = a.device.state().peers[0].tx_bytes, b.device.state().peers[0].rx_bytes
    for fill in range(5):
        a.send_superpacket(superpacket(fill))
    net.run(0.05)  # no report yet
    on_wire = sum(map(len, fragments(net)))
    after = a.device.state().peers[0].tx_bytes, b.device.state().peers[0].rx_bytes
    assert (after[0] - before[0], after[1] - before[1]) == (on_wire, on_wire)


def test_order_among_packets_is_kept() -> None:
    net, a, b = told()
    positions: list[int] = []
    drain = b.device.superpackets

    def watched() -> list[tuple[int, memoryview]]:
        taken = drain()
        positions.extend(before for before, _ in taken)
        return taken

    b.device.superpackets = watched  # type: ignore[method-assign]
    endpoint = a.endpoint
    a.device.send([packet(A4, B4, fill=1), packet(A4, B4, fill=2)], net.now)
    burst = [
        bytes(one.data[i : i + one.segment_size])
        for one in a.device.transmits()
        for i in range(0, len(one.data), one.segment_size)
    ]
    room = memoryview(bytearray(superpacket(3)).ljust(1 << 17))
    a.device.send_superpacket(room, len(superpacket(3)), net.now)
    burst += datagrams(a)
    a.device.send([packet(A4, B4, fill=4)], net.now)
    burst += datagrams(a)
    b.receive(burst, endpoint)
    assert positions == [2]
    assert len(b.packets) == 3


def test_nobody_sends_or_takes_frames_unless_told() -> None:
    net, a, b = told()
    switch(a, b, NO_SUPERFRAMES)
    assert not a.send_superpacket(superpacket())
    switch(a, b, AES)
    switch(b, a, NO_SUPERFRAMES)
    assert a.send_superpacket(superpacket())
    net.run(1)
    assert b.superpackets == []
    assert b.drops() == {"superframe-off": len(fragments(net))}


def test_off_and_on_again_repeats_no_counter() -> None:
    net, a, b = told()
    for cipher in (AES, CHACHA, AES, NO_SUPERFRAMES, AES):
        switch(a, b, cipher)
        switch(b, a, cipher)
        for fill in range(2):
            a.send_superpacket(superpacket(fill, segments=2))
        net.run(0.1)
    firsts = [data[:16] for data in fragments(net) if data[1] == 0]
    assert len(firsts) == len(set(firsts)) == 8


def test_ends_that_were_told_different_ciphers_fall_back() -> None:
    net, a, b = told()
    switch(b, a, CHACHA)
    gone = 0
    for fill in range(100):
        gone += a.send_superpacket(superpacket(fill, segments=3))
        net.run(0.05)
    assert gone <= TRIAL_FRAMES + 2 * TRIAL_FRAMES
    assert b.superpackets == []
    assert set(b.drops()) == {"superframe-tag"}


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0.0, 0.01, 0.1]),
    duplication=st.sampled_from([0.0, 0.3]),
    longest=st.sampled_from([0.01, 0.05, 0.3]),
    rekey=st.booleans(),
)
def test_a_bad_network(seed: int, loss: float, duplication: float, longest: float, rekey: bool) -> None:
    """Nothing is invented, nothing comes twice; whatever the order, without loss all of it comes."""
    net, a, b = told(seed)
    net.loss, net.duplication, net.delay = loss, duplication, (0.001, longest)
    random = Random(seed)
    sent: list[bytes] = []
    step = REKEY_AFTER_TIME / 20 if rekey else 0.5
    for fill in range(60):
        one = superpacket(fill, segments=random.choice([2, 5, 20]))
        if a.send_superpacket(one):
            sent.append(one)
        net.run(step)
    net.run(5)
    got = Counter(b.superpackets)
    assert got <= Counter(sent), "something was invented or came twice"
    if not loss:
        assert got == Counter(sent)
    assert b.device._shared.reassembly.used <= PARTIAL_BYTES_MAX


def test_frames_that_mix_are_told_apart() -> None:
    """Fragments of six frames at once, in any order."""
    net, a, b = told()
    net.delay = (0.001, 0.5)
    sent = [superpacket(fill) for fill in range(6)]
    assert all(a.send_superpacket(one) for one in sent)
    net.run(1)
    assert sorted(b.superpackets) == sorted(sent)
    assert b.device._shared.reassembly.used == 0


def test_loss_steps_down_to_packets_and_back_up() -> None:
    net, a, _ = told()
    prove(net, a)

    def share(seconds: float) -> float:
        """Of the superpackets of that time, how many went as frames."""
        gone = total = 0
        for _ in range(int(seconds * 50)):
            gone += a.send_superpacket(superpacket(total, segments=20))
            total += 1
            net.run(0.02)
        return gone / total

    assert share(5) == 1.0
    net.loss = 0.02  # a third of all frames of 20
    share(2)
    assert share(60) < 0.15
    net.loss = 0.0
    share(125)  # HOLD_MAX
    assert share(5) == 1.0


def test_a_path_that_swallows_reports_gets_plain_packets() -> None:
    net, a, _ = told()
    prove(net, a)
    net.tap = lambda source, _, data: source == a.endpoint
    gone = 0
    for fill in range(100):
        gone += a.send_superpacket(superpacket(fill, segments=3))
        net.run(0.02)
    assert 50 <= gone <= 52, "a second of 20 ms each"
    assert not a.send_superpacket(superpacket())


def test_reports_are_few_and_small_and_end_with_the_frames() -> None:
    net, a, b = told()
    prove(net, a)
    net.sent.clear()
    for fill in range(500):
        assert a.send_superpacket(superpacket(fill, segments=2))
        net.run(0.002)
    net.run(5)
    reports = [data for _, source, _, data in net.sent if source == b.endpoint]
    assert 10 <= len(reports) <= 24
    assert {len(data) for data in reports} == {48}
    assert a.packets == [], "a report is no packet"


# Attackers ----------------------------------------------------------------------------------------


def catch(net: Net, a: Host, fill: int = 0) -> list[bytes]:
    """The fragments of a frame that the network kept for itself."""
    net.tap = lambda *_: False
    already = len(fragments(net))
    assert a.send_superpacket(superpacket(fill))
    net.tap = None
    return fragments(net)[already:]


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


def test_congestion_on_the_way_is_told() -> None:
    net, a, b = told()
    plain = superpacket()
    ect0 = plain[: h.VIRTIO_LEN + 1] + b"\x02" + plain[h.VIRTIO_LEN + 2 :]
    room = memoryview(bytearray(ect0).ljust(1 << 17))
    assert a.device.send_superpacket(room, len(ect0), net.now)
    (transmit,) = a.device.transmits()
    assert transmit.tos == 2
    b.receive(cut(transmit), a.endpoint, ecn=3)
    assert b.superpackets[0][h.VIRTIO_LEN + 1] == 3


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


def test_a_superpacket_that_is_too_large_goes_as_packets() -> None:
    net, a, b = told()
    assert not a.send_superpacket(superpacket(segments=3, size=1400)), "segments above the MTU"
    assert not a.send_superpacket(superpacket(segments=100, size=654)), "more than a frame holds"
    net, a, b = told(mtu=9000)
    one = superpacket(segments=7, size=8900)
    assert a.send_superpacket(one)
    net.run(0.1)
    assert b.superpackets == [one]
