"""Two hosts on one cable: counters, MTUs, either family underneath, roaming, who may send as whom, keys.

    left                                        right
    wg 10.9.0.1, fd09::1                        wg 10.9.0.2, fd09::2
     │                                           │
    eth0 192.0.2.1, fd01::1 ──────────────────  eth0 192.0.2.2, fd01::2
    port 51820                                  port 51820

The scenarios ask what the kernel's own selftest (wireguard/netns.sh) asks; each starts with peers that know
nothing of the last.
"""

import socket
from collections.abc import Iterator

import pytest

from tests.e2e.wireguard.network import (
    LEFT4,
    LEFT6,
    RIGHT4,
    RIGHT6,
    Interface,
    Transfer,
    carry_tcp,
    new_key,
    new_preshared_key,
    peer_lines,
    ping,
    pings,
    public_of,
    rule,
    two_hosts,
)
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

UNDERLAYS = [("192.0.2.1", "192.0.2.2"), ("[fd01::1]", "[fd01::2]")]
# What the kernel's test uses: as much more than the default as 34816 is than Ethernet's 1500.
JUMBO = 34816 - 1500 + 1420
HEADERS4 = 60  # bytes: IPv4 20, UDP 8, transport message 32


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Interface, Interface]]:
    with two_hosts() as both:
        yield both


@pytest.fixture
def left(hosts: tuple[Interface, Interface]) -> Interface:
    """Peers anew, known to each other by IPv4."""
    left, right = hosts
    meet(left, right, *UNDERLAYS[0])
    return left


@pytest.fixture
def right(hosts: tuple[Interface, Interface], left: Interface) -> Interface:
    return hosts[1]


def meet(left: Interface, right: Interface, left_host: str, right_host: str) -> None:
    left.configure(*peer_lines(right, f"{RIGHT4}/32,{RIGHT6}/128", endpoint=f"{right_host}:51820"))
    right.configure(*peer_lines(left, f"{LEFT4}/32,{LEFT6}/128", endpoint=f"{left_host}:51820"))


def test_transfer_counters_are_exact(left: Interface, right: Interface) -> None:
    pings(right.machine, LEFT4, count=10)
    # An initiation of 148 bytes one way, a response of 92 the other; an echo of 84 is padded to 96 and takes
    # 32 more. The first echo also confirms the keys.
    assert right.transfer(left) == Transfer(received=92 + 10 * 128, sent=148 + 10 * 128)
    assert left.transfer(right) == Transfer(received=148 + 10 * 128, sent=92 + 10 * 128)
    assert int(left.show("latest-handshakes")[right.public_key]) > 0


def test_counters_agree_with_what_a_firewall_counts(left: Interface, right: Interface) -> None:
    with rule(left.machine, "udp dport 51820 counter") as listed:
        carry_tcp(right.machine, left.machine, LEFT6, size="1M")
        words = listed().split()
        packets, size = int(words[words.index("packets") + 1]), int(words[words.index("bytes") + 1])
        assert left.transfer(right).received == size - 28 * packets


@pytest.mark.parametrize("mtu", [1420, JUMBO])
@pytest.mark.parametrize(("left_host", "right_host"), UNDERLAYS, ids=["ipv4", "ipv6"])
def test_both_families_over_both_at_default_and_jumbo_mtu(
    hosts: tuple[Interface, Interface], left_host: str, right_host: str, mtu: int
) -> None:
    left, right = hosts
    meet(left, right, left_host, right_host)
    for device in hosts:
        device.ip(f"link set {{}} mtu {mtu}")
    try:
        for source, target4, target6 in ((left, RIGHT4, RIGHT6), (right, LEFT4, LEFT6)):
            pings(source.machine, target4, "-M", "do", "-s", str(mtu - 28), count=5)
            pings(source.machine, target6, "-M", "do", "-s", str(mtu - 48), count=5)
        carry_tcp(left.machine, right.machine, RIGHT4)
        carry_tcp(right.machine, left.machine, LEFT6)
    finally:
        for device in hosts:
            device.ip("link set {} mtu 1420")


def test_udp_floods_in_both_directions(left: Interface, right: Interface) -> None:
    pings(left.machine, RIGHT4)
    server = right.machine.start("iperf3", "-s", "-1", name="iperf3-flood").ready(5201)
    left.machine.run(
        "iperf3", "-c", RIGHT6, "-u", "-b", "0", "-l", "200", "-t", "1", "--bidir", seconds=10
    )  # fmt: skip
    server.wait(5)
    pings(left.machine, RIGHT4)


def test_padding_never_exceeds_the_mtu(left: Interface, right: Interface) -> None:
    for device in (left, right):
        device.ip("link set {} mtu 1299")
    try:
        with rule(left.machine, f"ip length > {1299 + HEADERS4} drop"):
            pings(right.machine, LEFT4, "-s", str(1297 - 28))
            pings(right.machine, LEFT4, "-s", str(1299 - 28))
    finally:
        for device in (left, right):
            device.ip("link set {} mtu 1420")


def test_a_peer_roams_from_ipv4_to_ipv4(left: Interface, right: Interface) -> None:
    pings(left.machine, RIGHT4)
    left.ip("addr add 192.0.2.99/24 dev eth0", "addr del 192.0.2.1/24 dev eth0")
    try:
        left.set("listen-port", "9999")
        pings(left.machine, RIGHT6)
        assert right.endpoint(left) == "192.0.2.99:9999"
        pings(right.machine, LEFT4)
    finally:
        left.ip("addr add 192.0.2.1/24 dev eth0", "addr del 192.0.2.99/24 dev eth0")


def test_a_peer_roams_from_ipv4_to_ipv6_and_back(left: Interface, right: Interface) -> None:
    pings(left.machine, RIGHT4)
    assert right.endpoint(left) == "192.0.2.1:51820"
    left.set("listen-port", "9998", "peer", right.public_key, "endpoint", "[fd01::2]:51820")
    pings(left.machine, RIGHT4)
    assert right.endpoint(left) == "[fd01::1]:9998"
    left.set("peer", right.public_key, "endpoint", "192.0.2.2:51820")
    pings(left.machine, RIGHT4)
    assert right.endpoint(left) == "192.0.2.1:9998"


def test_a_packet_from_an_address_of_another_peer_is_dropped_and_roaming_still_follows(
    left: Interface, right: Interface
) -> None:
    left.set("peer", right.public_key, "allowed-ips", "10.9.0.0/24")

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((LEFT4, 1111))
        sock.settimeout(2)
        return sock

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"X", (LEFT4, 1111))

    with left.machine.inside(listen) as sock:
        right.machine.inside(send)
        assert sock.recv(10) == b"X"
        other = public_of(new_key())
        left.set("peer", other, "allowed-ips", f"{RIGHT4}/32")
        right.set("listen-port", "9997")
        before = left.transfer(right).received
        right.machine.inside(send)
        # 1 byte of UDP in IPv4 is 29 bytes, padded to 32.
        wait_until(lambda: left.transfer(right).received == before + 64, what="the second packet", seconds=5)
        assert left.endpoint(right) == "192.0.2.2:9997"
        assert left.drops()["source-not-allowed"] == 1
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(10)


def test_a_new_private_key_shakes_hands_at_once(left: Interface, right: Interface) -> None:
    shared = new_preshared_key()
    left.set("peer", right.public_key, "preshared-key", "/dev/stdin", stdin=shared)
    right.set("peer", left.public_key, "preshared-key", "/dev/stdin", stdin=shared)
    pings(left.machine, RIGHT4)
    key = new_key()
    left.set("private-key", "/dev/stdin", stdin=key)
    right.set(
        *("peer", public_of(key), "preshared-key", "/dev/stdin", "allowed-ips", f"{LEFT4}/32"),
        *("peer", left.public_key, "remove"),
        stdin=shared,
    )
    pings(left.machine, RIGHT4)


def test_a_wrong_preshared_key_lets_nothing_through(left: Interface, right: Interface) -> None:
    left.set("peer", right.public_key, "preshared-key", "/dev/stdin", stdin=new_preshared_key())
    assert not ping(left.machine, RIGHT4)
    assert left.drops()["authentication"] >= 1
    assert left.show("latest-handshakes") == {right.public_key: "0"}


def test_the_link_goes_down_and_up_and_the_pair_meets_again(left: Interface, right: Interface) -> None:
    # Two initiations within 20 ms are a flood to the other end, as they are to the kernel.
    pings(left.machine, RIGHT4, count=5)
    left.ip("link set {} down")
    left.ip("link set {} up")
    pings(left.machine, RIGHT4)
