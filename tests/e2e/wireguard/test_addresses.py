"""Which local address datagrams leave from: sticky where a peer relies on it, never stuck.

left                                           right
wg 10.9.0.1                                    wg 10.9.0.2
 │                                              │
eth0 10.0.0.1, 10.0.0.2, fd01::1, fd01::2 ──── eth0 10.0.0.3, fd01::3
lo   10.50.0.1
eth1 (one scenario) ─────────────────────────── eth1
"""

from collections.abc import Iterator

import pytest

from tests.e2e.wireguard.network import Interface, Network, peer_lines, pings
from tests.lab.waiting import wait_until
from tests.lab.wires import plug

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Interface, Interface]]:
    with Network("left", "right") as network:
        left, right = network.devices(("left", "l"), ("right", "r"))
        plug(left.machine, "eth0", right.machine, "eth0")
        plug(left.machine, "eth1", right.machine, "eth1")
        left.ip("addr add 10.50.0.1/32 dev lo", "addr add 10.9.0.1/24 dev {}", "link set {} up")
        right.ip("addr add 10.9.0.2/24 dev {}", "link set {} up")
        yield left, right


@pytest.fixture
def left(hosts: tuple[Interface, Interface]) -> Interface:
    """Peers anew, and the addresses of the picture."""
    left, right = hosts
    for device in hosts:
        device.ip("addr flush dev eth0", "addr flush dev eth1", "route flush dev eth1")
    left.ip(*(f"addr add {address} dev eth0" for address in ("10.0.0.1/24", "10.0.0.2/24")))
    left.ip(*(f"addr add {address} dev eth0" for address in ("fd01::1/64", "fd01::2/64")))
    right.ip("addr add 10.0.0.3/24 dev eth0", "addr add fd01::3/64 dev eth0")
    right.ip("route add 10.50.0.1/32 dev eth0")
    left.configure(*peer_lines(right, "10.9.0.2/32"))
    right.configure(*peer_lines(left, "10.9.0.1/32"))
    return left


@pytest.fixture
def right(hosts: tuple[Interface, Interface], left: Interface) -> Interface:
    return hosts[1]


@pytest.mark.parametrize(
    ("peer", "old", "new"),
    [("10.0.0.3:51820", "10.0.0.1/24", "10.0.0.10/24"), ("[fd01::3]:51820", "fd01::1/64", "fd01::10/64")],
    ids=["ipv4", "ipv6"],
)
def test_the_old_source_address_is_deleted_and_another_takes_over(
    left: Interface, right: Interface, peer: str, old: str, new: str
) -> None:
    second = old.replace("1/", "2/")
    left.ip(f"addr del {second} dev eth0")
    left.set("peer", right.public_key, "endpoint", peer)
    pings(left.machine, "10.9.0.2")
    assert old.partition("/")[0] in right.endpoint(left)
    left.ip(f"addr add {new} dev eth0", f"addr del {old} dev eth0")
    pings(left.machine, "10.9.0.2")
    assert new.partition("/")[0] in right.endpoint(left)


def test_answers_leave_from_exactly_the_address_that_was_contacted(left: Interface, right: Interface) -> None:
    for address in ("10.0.0.1", "[fd01::1]", "10.0.0.2", "[fd01::2]", "10.0.0.1"):
        right.set("peer", left.public_key, "endpoint", f"{address}:51820")
        pings(right.machine, "10.9.0.1")
        # An answer from anywhere else would have moved the endpoint.
        assert right.endpoint(left) == f"{address}:51820"


def test_also_from_an_address_of_another_interface_than_the_route_goes_by(
    left: Interface, right: Interface
) -> None:
    right.set("peer", left.public_key, "endpoint", "10.50.0.1:51820")
    pings(right.machine, "10.9.0.1")
    assert right.endpoint(left) == "10.50.0.1:51820"


def test_a_better_route_takes_the_flow_over(left: Interface, right: Interface) -> None:
    left.ip("addr flush dev eth0", "addr add 10.0.0.1/24 dev eth0", "addr add 10.0.0.5/24 dev eth1")
    left.ip("route flush dev eth0", "route flush dev eth1")
    left.ip("route add 10.0.0.0/24 dev eth0 src 10.0.0.1 metric 2")
    left.set("peer", right.public_key, "endpoint", "10.0.0.3:51820")
    pings(left.machine, "10.9.0.2")
    assert right.endpoint(left) == "10.0.0.1:51820"
    left.ip("route add 10.0.0.0/24 dev eth1 src 10.0.0.5 metric 1")

    def moved() -> bool:
        pings(left.machine, "10.9.0.2")
        return right.endpoint(left) == "10.0.0.5:51820"

    wait_until(moved, what="the flow to move", seconds=3)
