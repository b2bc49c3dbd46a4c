"""The outer sockets on loopback: runs of segments, where answers leave from, and the kernel's refusals."""

import errno
import select
import socket
import sys

import pytest

from raven.dataplane.offloads import UDP_SEND, Offloads
from raven.dataplane.routes import path_mtu
from raven.dataplane.udp import Burst, Udp, UdpError, UdpSocket
from raven.wg.device import Transmit
from raven.wg.endpoint import Endpoint
from tests.lab.machine import Machine

IP_RECVTTL = 12  # <linux/in.h>
RUN = b"".join(bytes([at]) * 1000 for at in range(20)) + b"last"


def received(udp: Udp) -> list[tuple[list[bytes], Endpoint, int]]:
    """The first bursts that wait, from whichever socket has them; copied."""
    ready = select.select(udp.sockets, [], [], 5)[0]
    assert ready, "nothing arrived"
    bursts = []
    for one in ready:
        while (burst := one.receive()) is not None:
            bursts.append((list(map(bytes, burst.datagrams)), burst.endpoint, burst.ecn))
    return bursts


def datagrams(udp: Udp, count: int) -> list[bytes]:
    """The next `count` datagrams, however they were bundled."""
    found: list[bytes] = []
    while len(found) < count:
        found += [datagram for burst in received(udp) for datagram in burst[0]]
    return found


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def test_a_run_arrives_as_a_burst(host: str) -> None:
    a, b = Udp(0, 0), Udp(0, 0)
    assert a.send(Transmit(Endpoint(host, b.port), 1000, RUN)) == ""
    ((found, endpoint, ecn),) = received(b)
    assert b"".join(found) == RUN
    assert [len(datagram) for datagram in found] == [1000] * 20 + [4]
    assert endpoint == Endpoint(host, a.port, 0, host)
    assert ecn == 0
    # The answer leaves from the address that was contacted.
    assert b.send(Transmit(endpoint, 100, b"answer")) == ""
    assert received(a) == [([b"answer"], Endpoint(host, b.port, 0, host), 0)]
    a.close()
    b.close()


def test_both_families_share_a_port() -> None:
    udp = Udp(0, 0)
    assert [one.family for one in udp.sockets] == [socket.AF_INET, socket.AF_INET6]
    assert {one.port for one in udp.sockets} == {udp.port}
    udp.close()


def test_a_port_in_use_is_an_error(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as other:
        other.bind((host, 0))
        port = other.getsockname()[1]
        with pytest.raises(UdpError, match=f"UDP port {port}: ") as raised:
            Udp(port, 0)
        assert raised.value.errno == errno.EADDRINUSE


def test_the_ecn_bits_travel(host: str) -> None:
    a, b = Udp(0, 0), Udp(0, 0)
    assert a.send(Transmit(Endpoint(host, b.port), 1000, RUN, tos=0xB8 | 2)) == ""
    assert {ecn for _, _, ecn in received(b)} == {2}
    a.close()
    b.close()


def test_answers_leave_from_any_address_while_their_route_leaves_by_another_interface(host: str) -> None:
    a, b = Udp(0, 0), Udp(0, 0)

    def hear() -> Endpoint:
        assert a.send(Transmit(Endpoint(host, b.port), 10, b"x")) == ""
        ((_, endpoint, _),) = received(b)
        return endpoint

    sticky = hear()
    loopback = socket.if_nametoindex("lo")
    assert sticky.source == host
    assert b.routes_changed([sticky], lambda endpoint: loopback) == set()
    assert hear() == sticky
    assert b.routes_changed([sticky], lambda endpoint: loopback + 1) == {sticky}
    assert hear() == sticky._replace(source="")
    # It stays in mind, though the peer's endpoint has no source now, until the route is as before.
    assert b.routes_changed([sticky._replace(source="")], lambda endpoint: 0) == {sticky}
    assert b.routes_changed([], lambda endpoint: loopback) == set()
    assert hear() == sticky
    # Of one that was not heard nothing is known.
    assert b.routes_changed([Endpoint(host, 9, 0, host)], lambda endpoint: 0) == set()
    a.close()
    b.close()


def test_a_hop_limit_is_the_outer_headers(host: str) -> None:
    six = ":" in host
    a = Udp(0, 0)
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as b:
        if six:
            b.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        else:
            b.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        b.bind((host, 0))
        b.settimeout(5)
        for hops, seen in ((0, 64), (40, 40)):
            assert a.send(Transmit(Endpoint(host, b.getsockname()[1]), 100, b"x", hops=hops)) == ""
            ((_, _, value),) = b.recvmsg(10, 100)[1]
            assert int.from_bytes(value, sys.byteorder) == seen
    a.close()


def test_a_kernel_without_udp_segment_sends_one_by_one(host: str) -> None:
    a, b = Udp(0, 0, Offloads({UDP_SEND: "the kernel has none"})), Udp(0, 0)
    assert a.send(Transmit(Endpoint(host, b.port), 1000, RUN)) == ""
    assert b"".join(datagrams(b, 21)) == RUN
    a.close()
    b.close()


def test_an_address_that_is_gone_does_not_stop_answers(host: str) -> None:
    a, b = Udp(0, 0), Udp(0, 0)
    gone = "2001:db8::9" if ":" in host else "192.0.2.9"
    assert a.send(Transmit(Endpoint(host, b.port, 0, gone), 1000, RUN)) == ""
    assert b"".join(datagrams(b, 21)) == RUN
    a.close()
    b.close()


def test_an_address_that_is_gone_does_not_stop_answers_where_runs_are_not_taken(host: str) -> None:
    offloads = Offloads()
    offloads.failed_toward(host, OSError(errno.EIO, "the card cannot sum"))
    a, b = Udp(0, 0, offloads), Udp(0, 0)
    gone = "2001:db8::9" if ":" in host else "192.0.2.9"
    assert a.send(Transmit(Endpoint(host, b.port, 0, gone), 1000, RUN)) == ""
    assert b"".join(datagrams(b, 21)) == RUN
    a.close()
    b.close()


def test_a_single_family_is_enough() -> None:
    udp = Udp(0, 0)
    six = udp._by_family.pop(socket.AF_INET6)
    assert udp.send(Transmit(Endpoint("::1", 9), 100, b"x")) == "udp-no-family"
    six.close()
    udp.sockets[0].close()


@pytest.mark.parametrize(
    ("size", "reason"), [(65536, "udp-too-long"), (0, "")], ids=["longer than a datagram", "empty"]
)
def test_odd_sizes(size: int, reason: str) -> None:
    udp = Udp(0, 0)
    assert udp.send(Transmit(Endpoint("127.0.0.1", udp.port), max(size, 1), bytes(size))) == reason
    udp.close()


def test_strangers_cost_no_more_than_the_bound() -> None:
    one = UdpSocket(socket.AF_INET, 0, 0)
    for number in range(3000):
        one._endpoint((f"10.0.{number >> 8}.{number & 255}", 5), b"")
    assert len(one._endpoints) <= 1024
    one.close()


def test_nothing_to_receive_is_no_error() -> None:
    one = UdpSocket(socket.AF_INET, 0, 0)
    assert one.receive() is None
    assert isinstance(Burst([], Endpoint("::", 1), 0), tuple)
    one.close()


@pytest.mark.netns
def test_segments_that_do_not_fit_the_link_are_fragmented(machine: Machine) -> None:
    machine.run("ip", "link", "set", "lo", "mtu", "1280")
    for host in ("127.0.0.1", "::1"):
        a, b = machine.inside(lambda: (Udp(0, 0), Udp(0, 0)))
        run = bytes(1452) * 5
        assert a.send(Transmit(Endpoint(host, b.port), 1452, run)) == ""
        assert b"".join(datagrams(b, 5)) == run
        a.close()
        b.close()


@pytest.mark.netns
def test_segments_that_do_not_fit_the_link_leave_from_the_source_as_well(machine: Machine) -> None:
    machine.run("ip", "link", "set", "lo", "mtu", "1280")
    machine.run("ip", "addr", "add", "2001:db8::9/128", "dev", "lo", "nodad")
    for host, source in (("127.0.0.1", "127.0.0.9"), ("::1", "2001:db8::9")):
        a, b = machine.inside(lambda: (Udp(0, 0), Udp(0, 0)))
        run = bytes(1452) * 3
        assert a.send(Transmit(Endpoint(host, b.port, 0, source), 1452, run)) == ""
        bursts: list[tuple[list[bytes], Endpoint, int]] = []
        while sum(len(burst[0]) for burst in bursts) < 3:
            bursts += received(b)
        assert {burst[1].host for burst in bursts} == {source}
        a.close()
        b.close()


@pytest.mark.netns
def test_no_route_is_a_reason(machine: Machine) -> None:
    udp = machine.inside(lambda: Udp(0, 0))
    assert udp.send(Transmit(Endpoint("192.0.2.1", 5), 10, b"x")) == "udp-unreachable"
    assert udp.send(Transmit(Endpoint("2001:db8::1", 5), 10, b"x" * 30)) == "udp-unreachable"
    udp.close()


@pytest.mark.netns
def test_the_firewall_mark_is_set(machine: Machine) -> None:
    udp = machine.inside(lambda: Udp(0, 7))
    assert [one._socket.getsockopt(socket.SOL_SOCKET, 36) for one in udp.sockets] == [7, 7]
    udp.set_fwmark(0)
    assert [one._socket.getsockopt(socket.SOL_SOCKET, 36) for one in udp.sockets] == [0, 0]
    udp.set_fwmark(0xFFFFFFFF)
    assert [one._socket.getsockopt(socket.SOL_SOCKET, 36, 4) for one in udp.sockets] == [b"\xff" * 4] * 2
    assert machine.inside(lambda: path_mtu(Endpoint("127.0.0.1", 9), 0xFFFFFFFF)) > 0
    udp.close()


@pytest.mark.netns
def test_a_host_without_ipv6(machine: Machine) -> None:
    machine.set_sysctl(ipv6__conf__all__disable_ipv6=1)
    a, b = machine.inside(lambda: (Udp(0, 0), Udp(0, 0)))
    assert a.send(Transmit(Endpoint("127.0.0.1", b.port), 1000, RUN)) == ""
    assert b"".join(datagrams(b, 21)) == RUN
    a.close()
    b.close()


def test_a_lone_datagram_goes_by_what_is_remembered(host: str) -> None:
    a, b = Udp(0, 0), Udp(0, 0)
    lone = Transmit(Endpoint(host, b.port, 0, host), 4, b"lone", 2)
    assert not a.send_lone(lone)  # nothing is remembered yet: it is `send`'s to send, and was not sent
    for _ in range(2):
        assert a.send_lone(lone)
    found: list[tuple[list[bytes], Endpoint, int]] = []
    while sum(len(burst[0]) for burst in found) < 2:
        found += received(b)
    assert [burst[0] for burst in found] == [[b"lone"], [b"lone"]]
    assert {burst[1:] for burst in found} == {(Endpoint(host, a.port, 0, host), 2)}
    assert not a.send_lone(lone._replace(hops=3))
    assert not a.send_lone(lone._replace(whole=True))
    a.close()
    b.close()


def test_a_lone_datagram_that_cannot_leave_is_left_to_send(host: str) -> None:
    a, b = Udp(0, 0), Udp(0, 0)
    gone = "192.0.2.77" if host == "127.0.0.1" else "2001:db8::77"
    lone = Transmit(Endpoint(host, b.port, 0, gone), 4, b"lone")
    for _ in range(2):
        assert not a.send_lone(lone)
    assert a.send(lone) == ""  # from another address
    assert datagrams(b, 1) == [b"lone"]
    a.close()
    b.close()
