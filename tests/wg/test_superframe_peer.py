"""Two devices with superframes in virtual time: over good networks and bad ones."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.ip import header as h
from raven.wg.configuration import NO_SUPERFRAMES, SuperframeCipher
from raven.wg.constants import REKEY_AFTER_TIME
from raven.wg.reassembly import PARTIAL_BYTES_MAX
from raven.wg.stepdown import TRIAL_FRAMES
from tests.wg.packets import packet
from tests.wg.pair import A4, B4, Host, Net
from tests.wg.superframes import AES, CHACHA, cut, fragments, switch, told
from tests.wg.superpackets import superpacket


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


def test_a_superpacket_that_is_too_large_goes_as_packets() -> None:
    net, a, b = told()
    assert not a.send_superpacket(superpacket(segments=3, size=1400)), "segments above the MTU"
    assert not a.send_superpacket(superpacket(segments=100, size=654)), "more than a frame holds"
    net, a, b = told(mtu=9000)
    one = superpacket(segments=7, size=8900)
    assert a.send_superpacket(one)
    net.run(0.1)
    assert b.superpackets == [one]
