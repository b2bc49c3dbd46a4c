"""A router between the two hosts that forgets a mapping after two silent seconds.

left                         router                          right
wg 10.9.0.1                                                  wg 10.9.0.2
 │                                                            │
eth0 192.168.1.10 ── lan 192.168.1.1    wan 198.51.100.1 ── eth0 198.51.100.2
                          masquerades lan as wan
"""

import time
from collections.abc import Iterator

import pytest

from tests.e2e.wireguard.network import Interface, Network, peer_lines, ping, pings
from tests.lab.wires import ip, plug

pytestmark = pytest.mark.netns

FORGETS_AFTER = 2  # seconds
_NAT = """
table ip nat {
    chain to_wan {
        type nat hook postrouting priority srcnat
        oifname "wan" masquerade
    }
}
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Interface, Interface]]:
    with Network("left", "router", "right") as network:
        left, right = network.devices(("left", "l"), ("right", "r"))
        router = network["router"]
        plug(left.machine, "eth0", router, "lan")
        plug(router, "wan", right.machine, "eth0")
        ip(
            ["addr add 192.168.1.1/24 dev lan", "addr add 198.51.100.1/24 dev wan"],
            namespace=router.namespace,
        )
        router.run("nft", "-f", "-", text=_NAT)
        router.set_sysctl(
            ipv4__ip_forward=1,
            netfilter__nf_conntrack_udp_timeout=FORGETS_AFTER,
            netfilter__nf_conntrack_udp_timeout_stream=FORGETS_AFTER,
        )
        left.ip("addr add 192.168.1.10/24 dev eth0", "route add default via 192.168.1.1")
        right.ip("addr add 198.51.100.2/24 dev eth0")
        left.ip("addr add 10.9.0.1/24 dev {}", "link set {} up")
        right.ip("addr add 10.9.0.2/24 dev {}", "link set {} up")
        yield left, right


def meet(left: Interface, right: Interface, *, keepalive: int) -> None:
    right.configure(*peer_lines(left, "10.9.0.1/32"))
    left.configure(*peer_lines(right, "10.9.0.2/32", endpoint="198.51.100.2:51820", keepalive=keepalive))
    pings(left.machine, "10.9.0.2")
    assert right.endpoint(left).startswith("198.51.100.1:")


def test_a_keepalive_of_one_second_holds_the_mapping_open(hosts: tuple[Interface, Interface]) -> None:
    left, right = hosts
    meet(left, right, keepalive=1)
    time.sleep(FORGETS_AFTER + 1)  # the time that would lose the mapping is what is tested
    pings(right.machine, "10.9.0.1")


def test_without_one_the_mapping_is_lost_and_a_packet_from_inside_brings_it_back(
    hosts: tuple[Interface, Interface],
) -> None:
    left, right = hosts
    meet(left, right, keepalive=0)
    time.sleep(FORGETS_AFTER + 1)
    assert not ping(right.machine, "10.9.0.1")
    pings(left.machine, "10.9.0.2")
    pings(right.machine, "10.9.0.1")
