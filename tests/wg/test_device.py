"""Two devices on a good network: what goes in here comes out there, and everything else is counted."""

from collections.abc import Callable, Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from raven.keys import PresharedKey
from raven.wg.configuration import DeviceChange, PeerChange
from raven.wg.device import Device
from raven.wg.endpoint import Endpoint
from raven.wg.events import HandshakeCompleted, PeerRoamed
from tests.wg import reference
from tests.wg.packets import packet
from tests.wg.pair import A4, A6, B4, B6, connected, pair


def test_the_first_packet_brings_up_the_tunnel() -> None:
    net, a, b = pair()
    first = packet(A4, B4)
    a.send([first])
    net.run(1)
    assert b.packets == [bytes(first)]
    assert a.events == [HandshakeCompleted(b.public_key)]
    assert b.events == [HandshakeCompleted(a.public_key)]
    assert [len(data) for *_, data in net.sent] == [148, 92, 16 + 112 + 16]
    assert a.drops() == b.drops() == {}


def test_bytes_of_a_handshake_follow_from_the_seed_and_equal_the_reference() -> None:
    """Replay: the same seed, the same bytes; and each message is what a second implementation makes of it."""
    psk = PresharedKey(b"\x33" * 32)
    runs = []
    for _ in range(2):
        net, a, b = pair(42, preshared_key=psk)
        draws: list[bytes] = []
        for host in (a, b):
            inner = host.device._shared.random

            def recorded(
                size: int, inner: Callable[[int], bytes] = inner, draws: list[bytes] = draws
            ) -> bytes:
                value = inner(size)
                draws.append(value)
                return value

            host.device._shared.random = recorded
        a.send([packet(A4, B4)])
        net.run(1)
        runs.append([data for *_, data in net.sent])
    assert runs[0] == runs[1]
    initiation, response, transport = runs[0]

    # In the order they are drawn: index, ephemeral, (jitter) by a; index, ephemeral by b.
    index_a, ephemeral_a, _, index_b, ephemeral_b = draws[:5]
    net.now = 0.0
    timestamp = a.device._shared.tai64n()
    wanted, c, h = reference.initiation(
        a.private_key,
        ephemeral_a,
        b.public_key,
        index=int.from_bytes(index_a, "little"),
        timestamp=timestamp,
    )
    assert initiation == wanted
    index = int.from_bytes(index_b, "little")
    wanted, to_b, _ = reference.response(c, h, initiation, ephemeral_b, a.public_key, psk, index=index)
    assert response == wanted
    assert transport == reference.transport(to_b, index, 0, bytes(packet(A4, B4)).ljust(112, b"\0"))


packet_lists = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from([40, 41, 100, 1400, 1419, 1420]), st.integers(1, 50), st.integers(0, 3)
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(runs=packet_lists, seed=st.integers(0, 5))
def test_every_packet_arrives_whole_and_in_order(runs: list[tuple[bool, int, int, int]], seed: int) -> None:
    net, a, b = connected(seed)
    packets = []
    for v6, size, count, ecn in runs:
        pair_ = (A6, B6) if v6 else (A4, B4)
        packets += [packet(*pair_, size, fill=i, ecn=ecn) for i in range(count)]
    a.send(packets)
    net.run(1)
    assert b.packets == [bytes(p) for p in packets]
    assert a.drops() == b.drops() == {}


def test_a_cut_superpacket_is_one_transmit() -> None:
    net, a, b = connected()
    packets = [packet(A4, B4, 1420, fill=i) for i in range(44)] + [packet(A4, B4, 700)]
    a.device.send(packets, net.now)
    (transmit,) = a.device.transmits()
    assert transmit.segment_size == 1452
    assert len(transmit.data) == 44 * 1452 + 704 + 32
    assert transmit.endpoint == b.endpoint


def test_runs_end_where_sizes_destinations_or_ecn_change() -> None:
    net, a, _ = connected()
    runs: list[Sequence[memoryview]] = [
        [packet(A4, B4, 500)] * 3,
        [packet(A4, B4, 600)] * 2,
        [packet(A6, B6, 600)] * 2,
        [packet(A4, B4, 600, ecn=1)] * 2,
        [packet(A4, B4, 600, ecn=3)] * 2 + [packet(A4, B4, 599, ecn=3)],
        [packet(A4, B4, 600, ecn=3)] * 2,
        [packet(A4, B4, 40)] * 64,
        [packet(A4, B4, 40)] * 36,
    ]
    a.device.send([p for run in runs for p in run], net.now)
    transmits = a.device.transmits()
    assert [-(-len(t.data) // t.segment_size) for t in transmits] == [len(run) for run in runs]
    assert [t.tos for t in transmits] == [0, 0, 0, 1, 2, 2, 0, 0]


def test_transmits_and_packets_stay_whole_until_the_call_after_the_drain() -> None:
    """Several calls before one drain; a drain; and only the next call may overwrite."""
    net, a, b = connected()
    a.device.send([packet(A4, B4, 1420, fill=1)] * 10, net.now)
    a.device.send([packet(A4, B4, 1420, fill=2)] * 10, net.now)
    a.device.send([packet(A4, B4, 60, fill=3)], net.now)
    transmits = a.device.transmits()
    copies = [bytes(t.data) for t in transmits]
    for data, size in zip(copies, (1452, 1452, 96), strict=True):
        datagrams = [memoryview(data[i : i + size]) for i in range(0, len(data), size)]
        b.device.receive(datagrams, a.endpoint, net.now)
    assert [bytes(t.data) for t in transmits] == copies
    packets = b.device.packets()
    assert [p[5] for p in packets] == [1] * 10 + [2] * 10 + [3]


def test_padding_never_exceeds_the_mtu() -> None:
    net, a, b = connected(mtu=1000)
    for size, padded in [(999, 1000), (1000, 1000), (985, 992), (993, 1000), (20, 32)]:
        net.sent.clear()
        a.send([packet(A4, B4, size)])
        assert len(net.sent[0][3]) == padded + 32
    net.run(1)
    assert [len(p) for p in b.packets] == [999, 1000, 985, 993, 20]
    a.device.mtu = 1420
    assert a.device.mtu == 1420
    net.sent.clear()
    a.send([packet(A4, B4, 1001)])
    assert len(net.sent[0][3]) == 1008 + 32


def test_what_is_dropped_on_the_way_out_is_counted() -> None:
    net, a, _ = connected()
    bad = [b"", b"\x45" * 19, b"\x60" * 39, b"\x05" * 100, bytes(100)]
    a.send([memoryview(data) for data in bad])
    assert a.drops() == {"not-ip": len(bad)}
    a.send([packet(A4, "10.0.0.9"), packet(A6, "fd00::9")])
    assert a.drops()["no-peer"] == 2
    a.device.mtu = 65535
    a.send([packet(A4, B4, 65500)])
    assert a.drops()["too-large"] == 1
    assert net.sent == []


def test_jumbo_packets() -> None:
    net, a, b = connected(mtu=65000)
    packets = [packet(A4, B4, 8920, fill=i) for i in range(20)] + [packet(A4, B4, 65000)]
    a.send(packets)
    net.run(1)
    assert b.packets == [bytes(p) for p in packets]


def test_inner_sources_are_checked_but_roaming_follows() -> None:
    """An authentic packet from an address that is not its peer's is dropped; its outer source is believed."""
    net, a, b = connected()
    stranger = b.endpoint._replace(port=9)
    b.endpoint = stranger
    b.send([packet("10.0.0.9", A4), packet(B4, A4), packet("fd00::9", A6), packet(A4, A4)])
    net.run(0.1)
    assert a.packets == [bytes(packet(B4, A4))]
    assert a.drops() == {"source-not-allowed": 3}
    assert a.device.state().peers[0].endpoint == stranger


def test_inner_lengths_are_checked() -> None:
    net, a, b = connected()
    short = bytearray(packet(B4, A4, 100))
    short[2:4] = (60).to_bytes(2, "big")
    long = bytearray(packet(B4, A4, 100))
    long[2:4] = (113).to_bytes(2, "big")
    tiny = bytearray(packet(B4, A4, 100))
    tiny[2:4] = (19).to_bytes(2, "big")
    long6 = bytearray(packet(B6, A6, 100))
    long6[4:6] = (73).to_bytes(2, "big")
    b.send([memoryview(bytes(p)) for p in (short, long, tiny, long6)])
    net.run(0.1)
    assert a.packets == [bytes(short[:60])], "what lies behind the inner length is cut off"
    assert a.drops() == {"inner-malformed": 3}


def test_a_run_with_one_bad_source_loses_only_that() -> None:
    net, a, b = connected()
    good = [packet(B4, A4, 400, fill=i) for i in range(5)]
    b.send([*good[:3], packet("10.0.0.9", A4, 400), *good[3:]])
    net.run(0.1)
    assert a.packets == [bytes(p) for p in good]
    assert a.drops() == {"source-not-allowed": 1}


def test_a_packet_that_is_dropped_cuts_nothing_off_the_next() -> None:
    """Padded to one length all three are one run, and the last has the first's source and size again."""
    net, a, b = connected()
    good = [packet(B4, A4, 100, fill=1), packet(B4, A4, 100, fill=3)]
    b.send([good[0], packet("10.9.9.9", A4, 98, fill=2), good[1]])
    net.run(1)
    assert a.packets == [bytes(one) for one in good]
    assert a.drops() == {"source-not-allowed": 1}


def test_congestion_marks_cross_the_tunnel() -> None:
    net, a, b = connected()
    a.send([packet(A4, B4, ecn=2), packet(A4, B4, ecn=0), packet(A6, B6, ecn=1)])
    datagrams = [data for *_, data in net.sent]
    b.receive(datagrams, a.endpoint, ecn=3)
    assert b.packets == [
        bytes(packet(A4, B4, ecn=3)),
        bytes(packet(A4, B4, ecn=0)),
        bytes(packet(A6, B6, ecn=3)),
    ]


def test_counters_of_bytes_are_exact() -> None:
    """What one end says it sent is what the other says it received, handshakes and keepalives included."""
    net, a, b = pair(3)
    for i in range(50):
        a.send([packet(A4, B4, 1420, fill=j) for j in range(i % 7)] + [packet(A4, B4, 50 + i)])
        b.send([packet(B6, A6, 100 + i)])
        net.run(5)
    net.run(30)
    (at_a,), (at_b,) = a.device.state().peers, b.device.state().peers
    assert at_a.tx_bytes == at_b.rx_bytes == sum(len(d) for _, s, _, d in net.sent if s == a.endpoint)
    assert at_b.tx_bytes == at_a.rx_bytes == sum(len(d) for _, s, _, d in net.sent if s == b.endpoint)


def test_replays_are_dropped_whole_and_in_part() -> None:
    net, a, b = connected()
    a.send([packet(A4, B4, 1420, fill=i) for i in range(20)])
    datagrams = [data for *_, data in net.sent]
    b.receive(datagrams[5:8], a.endpoint)
    net.run(1)
    b.receive(datagrams, Endpoint("198.51.100.1", 1))
    assert sorted(b.packets) == sorted(bytes(packet(A4, B4, 1420, fill=i)) for i in range(20))
    assert b.drops() == {"replayed": 23}
    assert b.device.state().peers[0].endpoint == a.endpoint, "a replay from elsewhere moves nobody"


def test_roaming_needs_authentication() -> None:
    net, a, b = connected()
    elsewhere = Endpoint("2001:db8::5", 4444)
    a.send([packet(A4, B4)])
    (*_, datagram) = net.sent[0]
    forged = datagram[:-1] + bytes([datagram[-1] ^ 1])
    b.receive([forged], elsewhere)
    assert b.device.state().peers[0].endpoint == a.endpoint
    b.receive([datagram], elsewhere)
    assert b.device.state().peers[0].endpoint == elsewhere
    assert b.events[-1] == PeerRoamed(a.public_key, elsewhere)
    b.events.clear()
    b.device.send([packet(B4, A4)], net.now)
    assert [t.endpoint for t in b.device.transmits()] == [elsewhere]


def test_answers_leave_from_the_address_that_was_contacted() -> None:
    net, a, b = connected()
    contacted = a.endpoint._replace(source="203.0.113.9")
    a.send([packet(A4, B4)])
    b.receive([net.sent[0][3]], contacted)
    b.device.send([packet(B4, A4)], net.now)
    assert b.device.transmits()[0].endpoint.source == "203.0.113.9"
    assert not any(isinstance(event, PeerRoamed) for event in b.events)
    b.device.configure(DeviceChange(listen_port=999), net.now)
    b.device.send([packet(B4, A4)], net.now)
    assert b.device.transmits()[0].endpoint == a.endpoint, "a new port may need another address"
    a.device.send([packet(A4, B4)], net.now)
    b.receive([bytes(transmit.data) for transmit in a.device.transmits()], contacted)
    b.device.configure(DeviceChange(listen_port=999, fwmark=0), net.now)
    assert b.device.endpoints() == [contacted]
    b.device.configure(DeviceChange(fwmark=7), net.now)
    assert b.device.endpoints() == [a.endpoint], "and so may another mark"


def test_a_wrong_preshared_key_never_connects() -> None:
    net, a, b = pair()
    a.configure(PeerChange(public_key=b.public_key, preshared_key=PresharedKey(b"\x01" * 32)))
    a.send([packet(A4, B4)])
    net.run(30)
    assert b.packets == []
    assert a.drops()["authentication"] >= 5
    assert a.device.state().peers[0].last_handshake == 0


def test_a_stranger_is_not_answered() -> None:
    net, a, b = pair()
    b.configure(PeerChange(public_key=a.public_key, remove=True))
    a.send([packet(A4, B4)])
    net.run(1)
    assert [source for _, source, *_ in net.sent] == [a.endpoint]
    assert b.drops() == {"unknown-peer": 1}


def test_a_device_without_a_key_is_silent() -> None:
    net, a, _ = pair()
    mute = Device(tai64n=lambda: b"", random=Random(0).randbytes, wall=lambda: 0.0)
    a.send([packet(A4, B4)])
    mute.receive([memoryview(net.sent[0][3])], a.endpoint, 0.0)
    assert mute.transmits() == []
    assert mute.counters == {"no-private-key": 1}


def test_a_source_that_moved_is_chosen_anew() -> None:
    net, a, b = connected()
    sticky = a.endpoint._replace(source="192.0.2.2")
    a.device.send([packet(A4, B4)], net.now)
    b.receive([bytes(transmit.data) for transmit in a.device.transmits()], sticky)
    assert b.device.endpoints() == [sticky]
    b.device.sources_moved({sticky._replace(port=9)})
    assert b.device.endpoints() == [sticky]
    b.device.sources_moved({sticky})
    assert b.device.endpoints() == [a.endpoint]
