"""A path in the middle that takes less than both ends, and a TCP that has to get through it.

    left                            router                             right
    wg 10.9.0.1, fd09::1            │                                  wg 10.9.0.2, fd09::2
     │                              │                                   │
    eth0 10.1.0.1, fd01::1 ── west 10.1.0.9, fd01::9
                               east 10.2.0.9, fd02::9, MTU 1124 ────── eth0 10.2.0.2, fd02::2

`raven_probes` says that both ends are a `raven-wg`. IPv6 has no links below 1280, so there it is 1280. The
narrow link is told to the sender by ICMP, or swallows: a rule drops what is too long, whole and in silence.
"""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from raven.keys import PublicKey
from raven.wg import uapi, uapi_answers
from raven.wg.configuration import DeviceChange, PeerChange, PeerStatus
from tests.e2e.wireguard.network import Interface, Network, carry_tcp, peer_lines, pings, rule
from tests.lab import leftovers, wires
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until
from tests.lab.wires import plug

pytestmark = pytest.mark.netns

LEFT4, LEFT6, RIGHT4, RIGHT6 = "10.9.0.1", "fd09::1", "10.9.0.2", "fd09::2"
OUTER = {4: ("10.1.0.1", "10.2.0.2"), 6: ("[fd01::1]", "[fd02::2]")}
PATH = {4: 1124, 6: 1280}
ROOM = {4: 1124 - 60, 6: 1280 - 80}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Interface, Machine, Interface]]:
    with Network("left", "router", "right") as network:
        left, right = network.devices(("left", "l"), ("right", "r"))
        router = network["router"]
        plug(left.machine, "eth0", router, "west")
        plug(router, "east", right.machine, "eth0")
        left.ip("addr add 10.1.0.1/24 dev eth0", "addr add fd01::1/64 dev eth0")
        right.ip("addr add 10.2.0.2/24 dev eth0", "addr add fd02::2/64 dev eth0")
        wires.ip(
            [
                *("addr add 10.1.0.9/24 dev west", "addr add fd01::9/64 dev west"),
                *("addr add 10.2.0.9/24 dev east", "addr add fd02::9/64 dev east"),
            ],
            namespace=router.namespace,
        )
        router.set_sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        for device, near, address4, address6 in (
            (left, "10.1.0.9", LEFT4, LEFT6),
            (right, "10.2.0.9", RIGHT4, RIGHT6),
        ):
            device.ip(
                f"route add default via {near}",
                f"route add default via fd0{near[3]}::9",
                # A virtual cable would hand a whole run of segments to the router, as one long packet.
                "link set eth0 gso_max_segs 1",
                f"addr add {address4}/24 dev {{}}",
                f"addr add {address6}/64 dev {{}} nodad",
                "link set {} up",
            )
        yield left, router, right


@contextlib.contextmanager
def narrow(router: Machine, right: Interface, version: int, *, swallow: bool) -> Iterator[None]:
    """The path takes PATH[version] bytes; `swallow`: and nobody is told of what it does not take."""
    size = PATH[version]
    if swallow:
        with rule(router, f"meta length > {size} counter drop", hook="prerouting"):
            yield
        return
    wires.ip([f"link set east mtu {size}"], namespace=router.namespace)
    right.ip(f"link set eth0 mtu {size}")
    try:
        yield
    finally:
        # Below 1280 a link has lost its IPv6.
        restored = ["link set east mtu 1500", "addr replace fd02::9/64 dev east"]
        wires.ip(restored, namespace=router.namespace)
        right.ip("link set eth0 mtu 1500", "addr replace fd02::2/64 dev eth0")
        right.ip("route replace default via fd02::9")


def meet(left: Interface, right: Interface, version: int, *, probes: bool) -> None:
    left_host, right_host = OUTER[version]
    for machine in (left.machine, right.machine):
        for family in ("-4", "-6"):
            machine.run("ip", family, "route", "flush", "cache")
    left.configure(*peer_lines(right, f"{RIGHT4}/32,{RIGHT6}/128", endpoint=f"{right_host}:51820"))
    right.configure(*peer_lines(left, f"{LEFT4}/32,{LEFT6}/128", endpoint=f"{left_host}:51820"))
    for one, other in ((left, right), (right, left)) if probes else ():
        key = PublicKey.from_base64(other.public_key)
        change = DeviceChange(peers=[PeerChange(public_key=key, update_only=True, probes=True)])
        uapi_answers.parse_errno_untrusted(ask(one, uapi.format_set(change)))


def ask(device: Interface, request: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(str(leftovers.WIREGUARD / f"{device.name}.sock"))
        client.sendall(request.encode())
        answer = b""
        while not answer.endswith(b"\n\n"):
            piece = client.recv(65536)
            assert piece, answer
            answer += piece
    return answer.decode()


def path(device: Interface, peer: Interface) -> PeerStatus:
    """What `raven_status=1` says of the way to `peer`."""
    status = uapi_answers.parse_status_untrusted(ask(device, f"{uapi.STATUS}\n\n"))
    return status.peers[PublicKey.from_base64(peer.public_key)]


@pytest.mark.parametrize("swallow", [False, True], ids=["icmp", "black-hole"])
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_probes_find_the_path_and_tcp_passes_both_ways(
    hosts: tuple[Interface, Machine, Interface], version: int, swallow: bool
) -> None:
    left, router, right = hosts
    with narrow(router, right, version, swallow=swallow):
        meet(left, right, version, probes=True)
        pings(left.machine, RIGHT4)
        for one, other in ((left, right), (right, left)):
            wait_until(
                lambda one=one, other=other: path(one, other).proven_mtu == ROOM[version],  # type: ignore[misc]
                what=f"{one.name} to learn {ROOM[version]}",
                seconds=15,
            )
            assert path(one, other) == PeerStatus(mtu=ROOM[version], proven_mtu=ROOM[version], probes=True)
        for address in (RIGHT4, RIGHT6):
            carry_tcp(left.machine, right.machine, address)
        carry_tcp(right.machine, left.machine, LEFT4)
        # What may be cut is cut, what may not is told.
        pings(left.machine, RIGHT4, "-M", "dont", "-s", "1390")
        pings(left.machine, RIGHT6, "-s", "1200")
        whole = ("ping", "-n", "-c", "2", "-W", "1", "-M", "do", "-s", "1390", RIGHT4)
        said = left.machine.run(*whole, check=False)
        assert f"mtu={ROOM[version]}" in (said.out + said.err).replace("mtu = ", "mtu="), said
        assert left.drops()["too-large"] >= 1


def test_a_flow_under_way_lives_through_a_path_that_shrinks(
    hosts: tuple[Interface, Machine, Interface],
) -> None:
    left, router, right = hosts
    meet(left, right, 4, probes=True)
    pings(left.machine, RIGHT4)
    wait_until(lambda: path(left, right).proven_mtu == 1420, what="1420 to be proven", seconds=5)
    server = right.machine.start("iperf3", "-s", "-1", "-B", RIGHT4, name="iperf3-shrinking").ready(5201)
    client = left.machine.start(
        "iperf3", "-c", RIGHT4, "-t", "40", "-b", "20M", "-C", "cubic", name="iperf3-client"
    )
    wait_until(lambda: left.transfer(right).sent > 1_000_000, what="the flow to run", seconds=10)
    with narrow(router, right, 4, swallow=True):
        wait_until(lambda: path(left, right).mtu == ROOM[4], what="the new size", seconds=35)
        before = right.transfer(left).received
        wait_until(
            lambda: right.transfer(left).received > before + 2_000_000, what="the flow to go on", seconds=30
        )
    client.stop()
    server.stop()


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_toward_a_plain_peer_the_hosts_own_knowledge_counts(
    hosts: tuple[Interface, Machine, Interface], version: int
) -> None:
    left, router, right = hosts
    with narrow(router, right, version, swallow=False):
        meet(left, right, version, probes=False)
        pings(left.machine, RIGHT4)
        carry_tcp(left.machine, right.machine, RIGHT4)
        carry_tcp(right.machine, left.machine, LEFT6)
        # Its first link is the narrow one, so this end knows from the start.
        assert path(right, left) == PeerStatus(mtu=ROOM[version])
