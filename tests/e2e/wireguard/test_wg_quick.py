"""`wg-quick` with an ordinary configuration file, as docs/raven-wg.md tells it.

left                              right
wg-quick up FILE                  raven-wg 10.5.0.2, and 203.0.113.7 behind it
eth0 192.0.2.1 ────────────────── eth0 192.0.2.2
"""

from collections.abc import Iterator

import pytest

from tests.e2e.wireguard.network import Interface, Network, new_key, pings, public_of
from tests.lab import leftovers
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until
from tests.lab.wires import ip, plug

pytestmark = pytest.mark.netns

FILE = """[Interface]
PrivateKey = {private_key}
Address = 10.5.0.1/24, fd05::1/64
MTU = 1400
PostUp = ip link set %i alias up

[Peer]
PublicKey = {peer}
Endpoint = 192.0.2.2:51820
PersistentKeepalive = 25
AllowedIPs = {allowed_ips}
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Network, Interface]]:
    with Network("left", "right") as network:
        (right,) = network.devices(("right", "r"))
        left = network["left"]
        plug(left, "eth0", right.machine, "eth0")
        ip(["addr add 192.0.2.1/24 dev eth0"], namespace=left.namespace)
        right.ip("addr add 192.0.2.2/24 dev eth0", "addr add 203.0.113.7/32 dev lo")
        right.ip("addr add 10.5.0.2/24 dev {}", "addr add fd05::2/64 dev {}", "link set {} up")
        yield network, right


def quick(machine: Machine, verb: str, path: str) -> None:
    machine.run("env", "WG_QUICK_USERSPACE_IMPLEMENTATION=raven-wg", "wg-quick", verb, path)


def rules(machine: Machine) -> str:
    return machine.run("ip", "rule").out + machine.run("ip", "-6", "rule").out


@pytest.mark.parametrize(
    ("allowed_ips", "target"),
    [("10.5.0.0/24, fd05::/64", "fd05::2"), ("0.0.0.0/0, ::/0", "203.0.113.7")],
    ids=["some addresses", "all addresses"],
)
def test_up_and_down(hosts: tuple[Network, Interface], allowed_ips: str, target: str) -> None:
    network, right = hosts
    left = network["left"]
    name = f"{network.prefix}q"
    key = new_key()
    right.configure("[Peer]", f"PublicKey={public_of(key)}", "AllowedIPs=10.5.0.1/32,fd05::1/128")
    path = network.directory / f"{name}.conf"
    path.touch(mode=0o600)
    path.write_text(FILE.format(private_key=key, peer=right.public_key, allowed_ips=allowed_ips))
    before = rules(left)
    quick(left, "up", str(path))
    try:
        pings(left, "10.5.0.2")
        pings(left, target)
        assert "mtu 1400" in left.run("ip", "link", "show", name).out
        assert "alias up" in left.run("ip", "link", "show", name).out
        assert "latest handshake" in left.run("wg", "show", name).out
    finally:
        quick(left, "down", str(path))
    socket = leftovers.WIREGUARD / f"{name}.sock"
    wait_until(lambda: not socket.exists(), what="raven-wg to end", seconds=5)
    assert rules(left) == before
    assert name not in left.run("ip", "link").out
    wait_until(
        lambda: leftovers.processes(network.prefix) == [right.process.pid], what="it to be gone", seconds=5
    )
