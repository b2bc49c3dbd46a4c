"""Tunnels that carry tunnels, and routes that go round in circles.

left                                     right
inner 10.8.0.1 ══════════════════════ inner 10.8.0.2     endpoints are outer's inner addresses
outer fd09::1  ══════════════════════ outer fd09::2      endpoints are the cable's addresses
eth0 192.0.2.1 ────────────────────── eth0 192.0.2.2
"""

import time
from collections.abc import Iterator

import pytest

from tests.e2e.wireguard.network import Interface, Network, carry_tcp, peer_lines, ping, pings
from tests.lab.wires import plug

pytestmark = pytest.mark.netns


class Nest:
    """Two devices on each side."""

    def __init__(self, network: Network) -> None:
        places = (("left", "lo"), ("right", "ro"), ("left", "li"), ("right", "ri"))
        self.outer_left, self.outer_right, self.inner_left, self.inner_right = network.devices(*places)
        plug(network["left"], "eth0", network["right"], "eth0")
        self.outer_left.ip("addr add 192.0.2.1/24 dev eth0", "addr add fd09::1/112 dev {}")
        self.outer_right.ip("addr add 192.0.2.2/24 dev eth0", "addr add fd09::2/112 dev {}")
        self.inner_left.ip("addr add 10.8.0.1/24 dev {}", "link set {} mtu 1340")
        self.inner_right.ip("addr add 10.8.0.2/24 dev {}", "link set {} mtu 1340")
        for device in (self.outer_left, self.outer_right, self.inner_left, self.inner_right):
            device.ip("link set {} up")

    def meet(self) -> None:
        outer_left, outer_right = self.outer_left, self.outer_right
        outer_left.configure(*peer_lines(outer_right, "fd09::2/128", endpoint="192.0.2.2:51820"))
        outer_right.configure(*peer_lines(outer_left, "fd09::1/128", endpoint="192.0.2.1:51820"))
        left, right = self.inner_left, self.inner_right
        left.configure(*peer_lines(right, "10.8.0.2/32", endpoint="[fd09::2]:51821"), port=51821)
        right.configure(*peer_lines(left, "10.8.0.1/32", endpoint="[fd09::1]:51821"), port=51821)


@pytest.fixture(scope="module")
def nest() -> Iterator[Nest]:
    with Network("left", "right") as network:
        yield Nest(network)


def test_a_tunnel_inside_a_tunnel(nest: Nest) -> None:
    nest.meet()
    left, right = nest.inner_left.machine, nest.inner_right.machine
    pings(left, "10.8.0.2", "-M", "do", "-s", str(1340 - 28))
    pings(right, "10.8.0.1")
    carry_tcp(left, right, "10.8.0.2")


def _costs_little(device: Interface, other: Interface, peer: Interface, address: str) -> None:
    """Pings that nobody can answer leave no storm behind."""
    before = device.transfer(peer).sent
    spent = device.cpu_seconds() + other.cpu_seconds()
    assert not ping(device.machine, address, "-f", count=10)
    time.sleep(1)  # a storm would use it
    assert device.transfer(peer).sent - before < 70_000  # bytes; the kernel's own bound
    assert device.cpu_seconds() + other.cpu_seconds() - spent < 0.5


def test_a_loop_through_two_devices_is_bounded(nest: Nest) -> None:
    """The outer device's peer is said to be where only the inner device, which it carries, can reach it."""
    nest.meet()
    inner, outer = nest.inner_left, nest.outer_left
    pings(inner.machine, "10.8.0.2")
    outer.set("peer", nest.outer_right.public_key, "endpoint", "10.8.0.2:7")
    _costs_little(inner, outer, nest.inner_right, "10.8.0.2")


def test_a_loop_through_one_device_is_bounded(nest: Nest) -> None:
    """The usual mistake: all addresses into the tunnel, its own endpoint among them."""
    nest.meet()
    inner, outer = nest.inner_left, nest.outer_left
    pings(inner.machine, "10.8.0.2")
    inner.set("peer", nest.inner_right.public_key, "endpoint", "10.8.0.2:51821")
    _costs_little(inner, outer, nest.inner_right, "10.8.0.2")
