"""Two devices in virtual time on a path that swallows what is too large, tells of it, or changes."""

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, defragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, defragment6

from raven.wg.configuration import PeerChange
from raven.wg.endpoint import Endpoint
from raven.wg.inband import Probe
from raven.wg.path_mtu import CONFIRM, FLOOR, RAISE, UNLIMITED, PathMtu
from raven.wg.peer import Peer
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair

A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
HEADERS = 28  # IPv4 and UDP
AROUND = HEADERS + 32


def narrow(net: Net, path: int) -> None:
    """A black hole for whatever is longer than `path`, as an IPv4 packet."""
    net.tap = lambda source, destination, data: len(data) + HEADERS <= path


def probing(seed: int = 0, *, path: int = 1500, mtu: int = 1420) -> tuple[Net, Host, Host]:
    net, a, b = pair(seed, mtu=mtu)
    narrow(net, path)
    for one, other in ((a, b), (b, a)):
        one.configure(PeerChange(public_key=other.public_key, probes=True))
    a.send([packet(A4, B4)])
    net.run(1)
    return net, a, b


def mtu_of(host: Host, other: Host) -> int:
    return host.device.status().peers[other.public_key].mtu


def udp(size: int, *, flags: str = "") -> memoryview:
    payload = Random(size).randbytes(size - 28)
    return memoryview(bytearray(bytes(IP(src=A4, dst=B4, flags=flags) / UDP() / payload)))


@settings(max_examples=40, deadline=None)
@given(path=st.integers(576, 1500), seed=st.integers(0, 99), mtu=st.sampled_from([1420, 1280, 8920]))
def test_a_black_hole_is_measured_to_the_byte_from_both_ends(path: int, seed: int, mtu: int) -> None:
    net, a, b = probing(seed, path=path, mtu=mtu)
    net.run(20)
    wanted = min(mtu, path - AROUND)
    assert (mtu_of(a, b), mtu_of(b, a)) == (wanted, wanted)
    assert a.drops() == b.drops() == {}
    assert a.packets == []
    assert b.packets == [bytes(packet(A4, B4))]


def test_a_path_that_takes_all_costs_one_probe_and_its_answer() -> None:
    net, _, _ = probing()
    sizes = [len(data) for *_, data in net.sent]
    assert sizes.count(1420 + 32) == 2, "one from each end"
    assert sizes.count(16 + 32) == 2, "and two answers"
    net.run(100)
    assert [len(data) for *_, data in net.sent].count(1452) == 2, "an idle path is not asked again"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), path=st.integers(600, 1500))
def test_loss_never_makes_a_size_count_that_does_not_pass(seed: int, path: int) -> None:
    net, a, b = probing(seed, path=path)
    net.loss = 0.2
    for _ in range(40):
        a.send([udp(min(mtu_of(a, b), path - AROUND))])
        net.run(2)
    assert mtu_of(a, b) >= FLOOR
    assert a.device.status().peers[b.public_key].proven_mtu <= min(1420, path - AROUND)


def test_a_path_that_shrinks_is_noticed_while_large_packets_flow_and_raised_again_later() -> None:
    net, a, b = probing()
    assert mtu_of(a, b) == 1420
    narrow(net, 1124)
    for _ in range(30):
        a.send([udp(1400, flags="DF")])
        net.run(1)
    assert mtu_of(a, b) == 1064
    narrow(net, 1500)
    net.run(RAISE)
    for _ in range(5):
        a.send([udp(1000)])
        net.run(1)
    assert mtu_of(a, b) == 1420


def test_a_link_that_is_raised_is_followed() -> None:
    net, a, b = probing(path=9000)
    net.run(10)
    assert mtu_of(a, b) == 1420
    a.device.mtu = b.device.mtu = 8920
    a.send([udp(8000, flags="DF")])
    net.run(1)
    assert [len(received) for received in b.packets] == [100, 8000]
    assert a.packets == [], "nobody is told of a limit that is no more"
    assert a.device.status().peers[b.public_key].proven_mtu == 8920


def test_a_link_that_is_raised_makes_no_narrow_path_wider() -> None:
    net, a, b = probing(path=1300)
    net.run(20)
    a.device.mtu = 8920
    assert mtu_of(a, b) == 1300 - AROUND
    a.send([udp(8000, flags="DF")])
    assert len(a.packets) == 1


def test_whoever_sends_only_what_is_too_large_learns_of_a_wider_path() -> None:
    net, a, b = probing(path=1300)
    net.run(20)
    narrow(net, 1500)
    for _ in range(int(RAISE) + 30):
        a.send([udp(1400, flags="DF")])
        net.run(1)
    assert mtu_of(a, b) == 1420


def test_a_peer_that_moves_is_asked_anew() -> None:
    net, a, b = probing(path=1124)
    net.run(10)
    assert mtu_of(a, b) == 1064
    b.endpoint = Endpoint("198.51.100.7", 9999)
    narrow(net, 1500)
    b.send([packet(B4, A4)])
    net.run(2)
    for _ in range(12):
        a.send([udp(1400)])
        net.run(1)
    assert mtu_of(a, b) == 1420


def test_a_peer_that_answers_nothing_keeps_the_link_mtu_and_is_asked_ever_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Peer, "inband_received", lambda *_: None)
    net, a, b = pair()
    a.configure(PeerChange(public_key=b.public_key, probes=True))
    for _ in range(600):
        a.send([udp(1400)])
        net.run(1)
    assert mtu_of(a, b) == 1420
    probes = sum(len(data) for _, source, _, data in net.sent if source == a.endpoint) - 600 * 1440
    assert 0 < probes < 300_000


def test_a_plain_peer_sees_nothing_but_wireguard() -> None:
    net, a, b = pair()
    for _ in range(60):
        a.send([udp(1400)])
        b.send([packet(B4, A4)])
        net.run(1)
    assert b.drops() == {}
    assert {len(data) for _, source, _, data in net.sent if source == a.endpoint} <= {148, 92, 32, 1408 + 32}


def test_the_hosts_knowledge_counts_for_a_plain_peer() -> None:
    net, a, b = pair()
    known = {b.endpoint.host: 1124}
    a.device._shared.route_mtu = lambda endpoint: known.get(endpoint.host, 0)
    a.send([udp(1400, flags="DF")])
    net.run(1)
    assert mtu_of(a, b) == 1064
    known.clear()
    net.run(15)
    a.send([udp(1000)])
    net.run(1)
    assert mtu_of(a, b) == 1420


def test_a_plain_peer_behind_a_black_hole_is_found_out_by_its_silence() -> None:
    net, a, b = pair()
    narrow(net, 1124)
    for _ in range(60):
        a.send([udp(min(1400, mtu_of(a, b)), flags="DF")])
        net.run(1)
    assert mtu_of(a, b) in (1064, FLOOR)
    assert len([p for p in b.packets if len(p) >= FLOOR]) > 5


def test_a_plain_peer_that_was_started_anew_is_not_taken_for_one() -> None:
    net, a, b = pair()
    a.send([udp(1400)])
    net.run(1)
    b.device.link_down()
    b.device.link_up(net.now)
    for _ in range(60):
        a.send([udp(1400)])
        net.run(1)
    assert mtu_of(a, b) == 1420


def test_what_must_not_be_cut_is_told_inwards_and_not_without_end() -> None:
    net, a, b = probing(path=1124)
    net.run(10)
    b.packets.clear()
    a.packets.clear()
    a.send([udp(1400, flags="DF")] * 100)
    assert 1 <= len(a.packets) <= 20
    assert struct.unpack_from("!BBxxHH", a.packets[0], 20) == (3, 4, 0, 1064)
    assert a.drops() == {"too-large": 100}
    a.packets.clear()
    net.run(1)
    a.send([memoryview(bytearray(bytes(IPv6(src=A6, dst=B6) / UDP() / bytes(1300))))])
    assert IPv6(a.packets[0])[ICMPv6PacketTooBig].mtu == 1280
    net.run(1)
    assert b.packets == []


def test_what_must_be_cut_arrives_in_pieces_that_fit() -> None:
    net, a, b = probing(path=1124)
    net.run(10)
    b.packets.clear()
    four, six = udp(1400), bytes(IPv6(src=A6, dst=B6) / UDP() / Random(1).randbytes(1232))
    a.send([four])
    a.send([memoryview(bytearray(six))])
    net.run(1)
    assert [len(p) <= 1064 for p in b.packets] == [True] * 4
    (joined,) = defragment([IP(p) for p in b.packets[:2]])  # type: ignore[no-untyped-call]
    assert bytes(joined)[28:] == bytes(four)[28:]
    rejoined = defragment6([IPv6(p) for p in b.packets[2:]])  # type: ignore[no-untyped-call]
    assert bytes(rejoined)[40:] == six[40:]


def test_a_syn_is_clamped_on_its_way_out_and_on_its_way_in() -> None:
    net, a, b = pair()
    a.device._shared.route_mtu = lambda endpoint: 1124
    a.send([packet(A4, B4, 1000)])
    net.run(1)
    b.packets.clear()
    options = [("MSS", 1460)]
    a.send([memoryview(bytearray(bytes(IP(src=A4, dst=B4) / TCP(flags="S", options=options))))])
    b.send([memoryview(bytearray(bytes(IPv6(src=B6, dst=A6) / TCP(flags="SA", options=options))))])
    net.run(1)
    assert dict(IP(b.packets[0])[TCP].options)["MSS"] == 1064 - 40
    assert dict(IPv6(a.packets[0])[TCP].options)["MSS"] == 1064 - 60, "b knows 1420, a knows better"


def test_a_syn_that_starts_the_handshake_is_clamped_by_what_the_host_knows() -> None:
    net, a, b = pair()
    a.device._shared.route_mtu = lambda endpoint: 1124
    a.send([memoryview(bytearray(bytes(IP(src=A4, dst=B4) / TCP(flags="S", options=[("MSS", 1460)]))))])
    net.run(1)
    syn = IP(b.packets[0])
    assert dict(syn[TCP].options)["MSS"] == 1064 - 40
    checksum = syn[TCP].chksum
    del syn[TCP].chksum
    assert IP(bytes(syn))[TCP].chksum == checksum


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    path = PathMtu()
    path.cooperative = True
    (probe,) = path.search(1420, 7, 10.0)
    assert probe == Probe(1420, 7)
    for forged in (Probe(1420, 8), Probe(1421, 7), Probe(0, 7), Probe(65535, 7)):
        assert path.answered(forged, 10.1) == []
    assert (path.proven, path.limit) == (0, UNLIMITED)
    assert path.answered(probe, 10.2) == []
    assert (path.proven, path.limit) == (1420, 1420)
    assert not path.is_due(10.2 + CONFIRM - 1)
    assert path.answered(probe, 10.3) == []


def test_a_hint_from_the_network_decides_nothing_without_an_answer() -> None:
    path = PathMtu()
    path.cooperative = True
    path.hinted(600, 1.0)
    path.search(1420, 7, 1.0)
    ladder = path.timed_out(2.0)
    assert 600 in [probe.size for probe in ladder]
    for probe in ladder:
        path.answered(probe, 2.1)
    assert path.limit == 1420
