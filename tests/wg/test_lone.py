"""The short way of a lone packet against the way of bursts: the same bytes, state and refusals.

Two pairs of devices from one seed; in one everything goes as a burst of one, in the other alone.
"""

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.wg.constants import REJECT_AFTER_TIME
from raven.wg.device import Transmit
from raven.wg.endpoint import Endpoint
from raven.wg.outbox import LONE_MAX
from tests.wg.packets import packet
from tests.wg.pair import A4, A6, B4, B6, Host, Net, connected

HEADROOM = 10

Pair = tuple[Net, Host, Host]


def send_lone(host: Host, data: bytes | memoryview) -> Transmit | None:
    room = memoryview(bytearray(bytes(HEADROOM) + data).ljust(1 << 16, b"\xee"))  # none of this may leak
    return host.device.send_lone(room, HEADROOM, HEADROOM + len(data), host.net.now)


def sent(host: Host, data: bytes | memoryview) -> list[Transmit]:
    host.device.send([memoryview(bytearray(data))], host.net.now)
    return host.device.transmits()


def received(host: Host, datagram: bytes, *, ecn: int = 0) -> Sequence[bytes]:
    host.device.receive([memoryview(datagram)], source(host), host.net.now, ecn=ecn)
    return [bytes(one) for one in host.device.packets()]


def received_lone(host: Host, datagram: bytes, *, ecn: int = 0) -> memoryview | None:
    return host.device.receive_lone(memoryview(datagram), source(host), host.net.now, ecn=ecn)


def source(host: Host) -> Endpoint:
    return next(other.endpoint for other in host.net.hosts if other is not host)


def assert_alike(one: Host, two: Host) -> None:
    assert one.device.state() == two.device.state()
    assert one.drops() == two.drops()
    assert one.device.next_timeout() == two.device.next_timeout()
    assert one.device.events() == two.device.events()


def syn(size: int) -> memoryview:
    """An IPv4 packet of TCP that opens a connection with an MSS of 1460."""
    data = bytearray(packet(A4, B4, size))
    data[9] = 6
    data[32:34] = 0x60, 0x02
    data[40:44] = struct.pack("!BBH", 2, 4, 1460)
    return memoryview(data)


packets = st.one_of(
    st.builds(
        lambda size, fill, ecn: packet(A4, B4, size, fill=fill, ecn=ecn),
        st.integers(20, 1420),
        st.integers(0, 0xFFFF),
        st.integers(0, 3),
    ),
    st.builds(
        lambda size, fill, ecn: packet(A6, B6, size, fill=fill, ecn=ecn),
        st.integers(40, 1420),
        st.integers(0, 0xFFFF),
        st.integers(0, 3),
    ),
    st.builds(syn, st.integers(44, 160)),
    st.builds(lambda size: packet(A4, B4, size), st.integers(1421, 3000)),  # the MTU just shrank
)


@settings(max_examples=60, deadline=None)
@given(bursts=st.lists(st.tuples(packets, st.integers(0, 3), st.floats(0, 20)), max_size=8))
def test_the_short_way_makes_no_difference(bursts: list[tuple[memoryview, int, float]]) -> None:
    (net, a, b), (lone_net, lone_a, lone_b) = connected(1), connected(1)
    for data, ecn, pause in bursts:
        net.run(pause)
        lone_net.run(pause)
        expected = sent(a, data)
        transmit = send_lone(lone_a, data)
        assert transmit is not None
        others = lone_a.device.transmits()
        assert [transmit, *others] == expected
        assert_alike(a, lone_a)
        expected_packets = received(b, bytes(expected[0].data), ecn=ecn)
        came = received_lone(lone_b, bytes(transmit.data), ecn=ecn)
        assert came is not None
        assert [bytes(came)] == expected_packets
        assert lone_b.device.packets() == []
        assert received_lone(lone_b, bytes(transmit.data)) is None  # a replay by now
        assert lone_b.device.transmits() == b.device.transmits()
        assert_alike(b, lone_b)


def test_what_the_short_way_does_not_send_it_leaves_alone() -> None:
    _, a, _ = connected(1)
    before = a.device.state()
    nested = bytearray(packet(A4, B4, 100))
    nested[28:32] = b"\x04\0\0\0"  # a transport message inside
    for data in (
        b"",
        b"\x45",
        b"\x60" + bytes(39),  # nobody's
        packet(A4, "10.0.0.9"),
        bytes(nested),
        packet(A4, B4, LONE_MAX + 1),
    ):
        assert send_lone(a, data) is None
    a.net.now += REJECT_AFTER_TIME
    assert send_lone(a, packet(A4, B4)) is None
    assert a.device.transmits() == []
    assert a.device.state() == before
    assert a.drops() == {}


@pytest.mark.parametrize(
    "case", ["replayed", "forged", "short", "keepalive", "handshake", "index", "expired", "fragment", "large"]
)
def test_what_the_short_way_does_not_open_the_other_judges(case: str) -> None:
    (_, a, b), (_, lone_a, lone_b) = connected(1), connected(1)
    messages: list[bytes] = []
    for one, host in ((a, b), (lone_a, lone_b)):
        message = bytearray(sent(one, packet(A4, B4))[0].data)
        if case == "replayed":
            received(host, bytes(message))
        elif case == "forged":
            message[-1] ^= 1
        elif case == "short":
            del message[20:]
        elif case == "keepalive":
            next(iter(one.device._peers)).send_keepalive(one.net.now)
            message[:] = one.device.transmits()[0].data
            assert len(message) == 32
        elif case == "handshake":
            message[:] = b"\x01\0\0\0" + bytes(144)
        elif case == "index":
            message[4] ^= 1
        elif case == "expired":
            host.net.now += REJECT_AFTER_TIME
        elif case == "fragment":
            message[0] = 0x52
        else:
            message += bytes(LONE_MAX)
        messages.append(bytes(message))
    assert messages[0] == messages[1]
    before = lone_b.device.state(), lone_b.drops()
    assert received_lone(lone_b, messages[1]) is None
    assert (lone_b.device.state(), lone_b.drops()) == before
    assert not lone_b.device.transmits()
    assert received(lone_b, messages[1]) == received(b, messages[0])
    assert_alike(b, lone_b)


def test_a_packet_from_somebody_else_s_address_is_dropped_on_the_short_way_too() -> None:
    _, a, b = connected(1)
    transmit = send_lone(a, packet("10.0.0.9", B4))
    assert transmit is not None
    came = received_lone(b, bytes(transmit.data))
    assert came is not None
    assert not came
    assert b.drops() == {"source-not-allowed": 1}


def test_pending_tells_what_a_driver_has_to_fetch() -> None:
    net, a, b = connected(1)
    net.run(20)  # no timer is left but the one that erases keys
    for host in (a, b):
        host.device.next_timeout()
        assert not host.device.pending
    at = a.device.next_timeout()
    transmit = send_lone(b, packet(B4, A4))
    assert transmit is not None
    assert received_lone(a, bytes(transmit.data))
    assert a.device.pending  # a sign of life is due before anything else was
    sooner = a.device.next_timeout()
    assert sooner is not None
    assert at is not None
    assert sooner < at
    assert not a.device.pending
    net.now += 110  # time for new keys, which an initiator asks for
    assert send_lone(a, packet(A4, B4)) is not None
    assert a.device.pending
    assert [len(one.data) for one in a.device.transmits()] == [148]
