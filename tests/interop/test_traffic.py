"""raven-wg against Debian's wireguard-go and against itself, on the wire of `pair`.

One scenario for every pair of implementations, initiator first, and both kinds of underlay: a handshake begun
by the initiator alone, pings of both families, TCP each way, UDP, and what `wg show` says of it at both ends.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.pair import GO, RAVEN, Host, missing, pair, tcp_stream, udp_stream
from tests.lab import programs
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.interop]

PAIRS = [(RAVEN, RAVEN), (RAVEN, GO), (GO, RAVEN)]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    with pair(tmp_path) as hosts:
        yield hosts


def start(hosts: tuple[Host, Host], implementations: tuple[str, str]) -> None:
    if reason := missing(*implementations):
        pytest.skip(reason)
    for host, implementation in zip(hosts, implementations, strict=True):
        host.start(implementation)


@pytest.mark.parametrize("underlay", ["ipv4", "ipv6"])
@pytest.mark.parametrize("implementations", PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
def test_traffic_of_every_kind(
    hosts: tuple[Host, Host], implementations: tuple[str, str], underlay: str
) -> None:
    a, b = hosts
    start(hosts, implementations)
    # One of the two underlays is tried with a preshared key.
    preshared = a.machine.run("wg", "genpsk").out.strip() if underlay == "ipv6" else ""
    a.add_peer(b, endpoint=b.outer6 if underlay == "ipv6" else b.outer4, preshared=preshared)
    b.add_peer(a, preshared=preshared)

    programs.ping(a.machine, b.inner4, count=5)
    programs.ping(a.machine, b.inner6)
    programs.ping(b.machine, a.inner4)
    for address in (b.inner4, b.inner6):
        assert tcp_stream(a, b, address) > 8 << 20
    assert tcp_stream(b, a, a.inner4) > 8 << 20
    sent, lost = udp_stream(a, b, b.inner6, megabits=50, length=1200, count=2000)
    assert sent >= 2000
    assert lost < sent / 10

    for host, other in ((a, b), (b, a)):
        peer = host.shown()
        address = other.outer6 if underlay == "ipv6" else other.outer4
        assert peer["endpoint"] in (f"{address}:{other.port}", f"[{address}]:{other.port}")
        assert peer["preshared"] == (preshared or "(none)")
        assert abs(time.time() - int(peer["handshake"])) < 60
        assert int(peer["rx"]) > 1_000_000
        assert int(peer["tx"]) > 1_000_000
    for host, implementation in zip(hosts, implementations, strict=True):
        if implementation == RAVEN:
            # What the kernel sends into every new link (router solicitations) belongs to no peer.
            assert set(host.counters()) <= {"no-peer", "no-endpoint", "replayed"}


@pytest.mark.parametrize("implementations", PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
def test_a_wrong_preshared_key_lets_nothing_through(
    hosts: tuple[Host, Host], implementations: tuple[str, str]
) -> None:
    a, b = hosts
    start(hosts, implementations)
    a.add_peer(b, endpoint=b.outer4, preshared=a.machine.run("wg", "genpsk").out.strip())
    b.add_peer(a)
    assert a.machine.run("ping", "-c", "1", "-W", "1", b.inner4, check=False).code == 1
    assert a.shown()["handshake"] == "0"


@pytest.mark.parametrize("implementations", PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
def test_an_address_of_another_is_not_accepted(
    hosts: tuple[Host, Host], implementations: tuple[str, str]
) -> None:
    a, b = hosts
    start(hosts, implementations)
    a.add_peer(b, endpoint=b.outer4)
    b.add_peer(a)
    programs.ping(a.machine, b.inner4)
    a.machine.run("ip", "addr", "add", "10.9.0.77/24", "dev", a.interface)
    assert a.machine.run("ping", "-I", "10.9.0.77", "-c", "1", "-W", "1", b.inner4, check=False).code == 1
    if implementations[1] == RAVEN:
        assert b.counters()["source-not-allowed"] >= 1


@pytest.mark.parametrize("implementations", PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
def test_the_initiator_roams_to_another_port(
    hosts: tuple[Host, Host], implementations: tuple[str, str]
) -> None:
    a, b = hosts
    start(hosts, implementations)
    a.add_peer(b, endpoint=b.outer4)
    b.add_peer(a)
    programs.ping(a.machine, b.inner4)
    a.wg("listen-port", "4444")
    programs.ping(a.machine, b.inner4)
    assert b.shown()["endpoint"] == f"{a.outer4}:4444"
    programs.ping(b.machine, a.inner4)


@pytest.mark.parametrize("implementations", PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
def test_the_initiator_roams_to_another_address(
    hosts: tuple[Host, Host], implementations: tuple[str, str]
) -> None:
    a, b = hosts
    start(hosts, implementations)
    a.add_peer(b, endpoint=b.outer4)
    b.add_peer(a)
    programs.ping(a.machine, b.inner4)
    a.machine.run("ip", "addr", "del", f"{a.outer4}/24", "dev", "eth0")
    a.machine.run("ip", "addr", "add", "192.0.2.9/24", "dev", "eth0")
    if implementations[0] == GO:
        # It insists on the address it was contacted at (ENETUNREACH) until something makes it forget that.
        a.wg("fwmark", "1")
    programs.ping(a.machine, b.inner4)
    assert b.shown()["endpoint"] == f"192.0.2.9:{a.port}"
    programs.ping(b.machine, a.inner4)


@pytest.mark.parametrize("implementations", PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
def test_the_initiator_roams_from_ipv4_to_ipv6_and_back(
    hosts: tuple[Host, Host], implementations: tuple[str, str]
) -> None:
    a, b = hosts
    start(hosts, implementations)
    a.add_peer(b, endpoint=b.outer4)
    b.add_peer(a)
    programs.ping(a.machine, b.inner4)
    handshake = b.shown()["handshake"]
    for theirs, ours in (
        (f"[{b.outer6}]:{b.port}", f"[{a.outer6}]:{a.port}"),
        (f"{b.outer4}:{b.port}", f"{a.outer4}:{a.port}"),
    ):
        a.wg("peer", b.public, "endpoint", theirs)
        programs.ping(a.machine, b.inner6)
        assert b.shown()["endpoint"] == ours
        programs.ping(b.machine, a.inner6)
    assert b.shown()["handshake"] == handshake, "roaming needs no new keys"


FASTER = 60  # times: raven-wg's keys are old after two seconds, and refused after three


@pytest.mark.parametrize("beginner", [RAVEN, GO])
def test_keys_are_renewed_by_ravens_clock_while_packets_pass(hosts: tuple[Host, Host], beginner: str) -> None:
    """`beginner` made the first keys: as their initiator raven-wg renews them, else when it may not send."""
    if reason := missing(GO, "faketime"):
        pytest.skip(reason)
    a, b = hosts
    a.start(RAVEN, faster=FASTER)
    b.start(GO)
    a.add_peer(b, endpoint=b.outer4 if beginner == RAVEN else "")
    b.add_peer(a, endpoint=a.outer4 if beginner == GO else "")
    programs.ping(*((a.machine, b.inner4) if beginner == RAVEN else (b.machine, a.inner4)))
    first, before = b.shown(), a.counters()
    count = 250 if beginner == RAVEN else 350  # 10 ms each
    command = ("ping", "-n", "-q", "-i", "0.01", "-c", str(count), "-W", "1", b.inner4)
    said = a.machine.run(*command, seconds=20).out
    received = int(said.partition(" received")[0].split()[-1])
    # Renewed keys overlap. Where they end before, answers on their way are lost: a tenth of a second's.
    lost = 10 if beginner == GO else 0
    assert received >= count - lost, said
    assert int(b.shown()["handshake"]) > int(first["handshake"])
    assert int(b.shown()["rx"]) - int(first["rx"]) >= 128 * received + 148, "an initiation in between"
    refused = a.counters().get("keypair-expired", 0) - before.get("keypair-expired", 0)
    assert refused <= lost


@pytest.mark.parametrize("implementation", [RAVEN, GO])
def test_a_keepalive_alone_begins_the_handshake(hosts: tuple[Host, Host], implementation: str) -> None:
    a, b = hosts
    start(hosts, (RAVEN, implementation))
    b.add_peer(a)
    a.machine.run("ip", "link", "set", a.interface, "down")
    a.add_peer(b, endpoint=b.outer4, keepalive=25)
    a.machine.run("ip", "link", "set", a.interface, "up")
    wait_until(lambda: int(b.shown()["rx"]) > 148, what="a keepalive", seconds=5)
    assert a.shown()["keepalive"] == "25"


@pytest.mark.parametrize("mtu", [1280, 1419, 9000])
def test_other_mtus(hosts: tuple[Host, Host], mtu: int) -> None:
    if reason := missing():
        pytest.skip(reason)
    a, b = hosts
    for host in hosts:
        host.machine.run("ip", "link", "set", "eth0", "mtu", "9100")
        host.start(RAVEN, mtu=mtu)
    a.add_peer(b, endpoint=b.outer6)
    b.add_peer(a)
    for size in (mtu - 28, mtu - 29):
        a.machine.run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", str(size), b.inner4)
    assert tcp_stream(a, b, b.inner4) > 8 << 20


def test_a_first_link_shorter_than_the_mtu(hosts: tuple[Host, Host]) -> None:
    """The outer link takes 1400 bytes only: TCP keeps to that, and other packets are cut."""
    if reason := missing():
        pytest.skip(reason)
    a, b = hosts
    for host in hosts:
        host.machine.run("ip", "link", "set", "eth0", "mtu", "1400")
        host.start(RAVEN)
    a.add_peer(b, endpoint=b.outer4)
    b.add_peer(a)
    programs.ping(a.machine, b.inner4)
    assert tcp_stream(a, b, b.inner4) > 2 << 20
