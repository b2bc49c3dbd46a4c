"""What `wg` can say to a device and hears back, and that nothing stays behind.

host
wg      one device and no cable
"""

import base64
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.wireguard.network import Interface, Network, new_key, new_preshared_key, public_of
from tests.lab import leftovers
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

# Points whose multiples tell nothing of the key: the kernel's selftest lists them.
LOW_ORDER = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
    "7f///////////////////////////////////////38=",
    "7v///////////////////////////////////////38=",
]


@pytest.fixture(scope="module")
def module_device() -> Iterator[Interface]:
    with Network("host") as network:
        (device,) = network.devices(("host", "h"))
        yield device


@pytest.fixture
def device(module_device: Interface) -> Interface:
    """The device without peers, and down."""
    module_device.ip("link set {} down")
    module_device.configure()
    return module_device


def test_130560_allowed_ips_go_in_and_come_back(device: Interface) -> None:
    networks = [
        network
        for a in range(1, 256)
        for b in range(256)
        for network in (f"{a}.{b}.0.0/16", f"{a:x}::{b + 1:x}/128")
    ]
    key = public_of(new_key())
    device.configure("[Peer]", f"PublicKey={key}", *(f"AllowedIPs={network}" for network in networks))
    shown = device.show("allowed-ips")[key].split()
    assert len(shown) == 130_560
    assert set(shown) == set(networks)


def test_forty_peers_with_52_networks_each(device: Interface) -> None:
    peers = {public_of(new_key()): {f"{a}.{b}.0.0/16" for b in range(1, 53)} for a in range(1, 41)}
    lines = [
        line
        for key, networks in peers.items()
        for line in ("[Peer]", f"PublicKey={key}", *(f"AllowedIPs={network}" for network in sorted(networks)))
    ]
    device.configure(*lines)
    assert {key: set(value.split()) for key, value in device.show("allowed-ips").items()} == peers


def test_a_peer_without_networks_beside_one_with_197(device: Interface) -> None:
    empty, full = public_of(new_key()), public_of(new_key())
    device.set("peer", empty)
    device.set("peer", full, "allowed-ips", ",".join(f"abcd::{i}" for i in range(1, 198)))
    shown = device.show("allowed-ips")
    assert shown[empty] == "(none)"
    assert len(shown[full].split()) == 197


def test_networks_that_cover_each_other_replace_each_other(device: Interface) -> None:
    key = public_of(new_key())
    for covering, inside in (
        ("0.0.0.0/0", "10.0.0.0/8,100.0.0.0/10,172.16.0.0/12,192.168.0.0/16"),
        ("::/0", "1700::/111,5000::/4,e000::/37,9000::/75"),
    ):
        device.set("peer", key, "allowed-ips", f"{covering},{inside}")
        assert len(device.show("allowed-ips")[key].split()) == 5
        device.set("peer", key, "allowed-ips", covering)
        assert device.show("allowed-ips") == {key: covering}


def test_keys_are_set_shown_and_taken_away(device: Interface) -> None:
    key, shared = public_of(new_key()), new_preshared_key()
    device.set("peer", key, "preshared-key", "/dev/stdin", stdin=shared)
    assert device.show("private-key") == {device.private_key: ""}
    assert device.show("preshared-keys") == {key: shared}
    device.set("private-key", "/dev/null", "peer", key, "preshared-key", "/dev/null")
    assert device.show("private-key") == {"(none)": ""}
    assert device.show("preshared-keys") == {key: "(none)"}


def test_a_device_has_no_peer_with_its_own_key(device: Interface) -> None:
    other = new_key()
    device.set("peer", public_of(other))
    device.set("private-key", "/dev/stdin", stdin=other)
    assert device.show("public-key") == {public_of(other): ""}
    assert device.show("peers") == {}
    device.set("peer", public_of(other))
    assert device.show("peers") == {}
    device.set("private-key", "/dev/stdin", stdin=device.private_key)
    device.set("peer", public_of(other))
    assert device.show("peers") == {public_of(other): ""}


def test_private_keys_are_clamped(device: Interface) -> None:
    raw = bytearray(base64.b64decode(device.private_key))
    raw[0] |= 7
    raw[31] |= 128
    device.set("private-key", "/dev/stdin", stdin=base64.b64encode(raw).decode())
    (shown,) = device.show("private-key")
    clamped = base64.b64decode(shown)
    assert (clamped[0] & 7, clamped[31] & 192) == (0, 64)
    assert clamped[1:31] == raw[1:31]


def test_a_peer_with_a_low_order_key_is_sent_nothing(device: Interface) -> None:
    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 1111))
        sock.setblocking(False)
        return sock

    for point in LOW_ORDER:
        device.set("peer", point, "persistent-keepalive", "1", "endpoint", "127.0.0.1:1111")
    assert len(device.show("peers")) == len(LOW_ORDER)
    with device.machine.inside(listen) as sock:
        device.ip("link set {} up")
        wait_until(
            lambda: device.drops().get("weak-key", 0) >= len(LOW_ORDER),
            what="the keepalives to be refused",
            seconds=5,
        )
        with pytest.raises(BlockingIOError):
            sock.recv(1)


def test_ports_and_marks_are_set_after_the_privileges_are_gone(device: Interface) -> None:
    status = Path(f"/proc/{device.process.pid}/status").read_text()
    kept = 1 << 10 | 1 << 12  # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status.partition(f"{name}:")[2].split()[0], 16) == kept
    device.ip("link set {} up")
    for port in ("443", "40000"):
        device.set("listen-port", port, "fwmark", "0x51")
        assert device.machine.run("wg", "show", device.name, "listen-port").out.strip() == port
        listening = device.machine.run("ss", "-lunH", f"sport = :{port}").out
        assert listening.count(f":{port}") == 2
    device.set("listen-port", "0", "fwmark", "0")
    device.ip("link set {} down")


def test_a_device_that_does_not_exist_is_an_error(device: Interface) -> None:
    assert device.machine.run("wg", "show", "doesnotexist", check=False).code != 0


@pytest.mark.parametrize("end", ["link", "socket", "signal"])
def test_everything_created_is_destroyed(end: str) -> None:
    with Network("host") as network:
        (device,) = network.devices(("host", "h"))
        device.configure("[Peer]", f"PublicKey={public_of(new_key())}", "AllowedIPs=10.0.0.0/8")
        device.ip("link set {} up")
        if end == "link":
            device.ip("link del {}")
        elif end == "socket":
            (leftovers.WIREGUARD / f"{device.name}.sock").unlink()
        else:
            assert device.process.stop() == 0
        assert device.process.wait(5) == 0
        assert leftovers.sockets(network.prefix) == []
        assert device.machine.run("ip", "-o", "link").out.count("\n") == 1, "only lo is left"
        assert leftovers.processes(network.prefix) == []
    assert leftovers.found(network.prefix) == []
