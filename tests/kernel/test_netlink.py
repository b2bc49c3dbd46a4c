"""The kernel backend's codec against a real kernel: what is set is what the kernel, `wg` and the codec show.

The control code stays here; only its netlink messages travel into the guest, and come out of its kernel.
"""

import errno
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import pytest

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.net.device import NoDevice, forget_keys
from raven.net.kernel_device import KernelDevice
from raven.wg import netlink
from raven.wg.configuration import NO_PRIVATE_KEY, DeviceChange, PeerChange, UapiError
from raven.wg.endpoint import Endpoint
from tests.e2e.wireguard.network import Network, new_key, new_preshared_key, public_of
from tests.kernel import image
from tests.kernel.guest import GUEST4, GUEST6, Guest

pytestmark = [pytest.mark.netns, pytest.mark.interop]

SOURCE = Path(__file__).parent / "netlink.c"


class Kernel:
    """The guest's kernel, asked as this host's would be."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def ask(self, request: bytes) -> list[netlink.Reply]:
        said = self.guest.run(f"/bin/netlink <<'end'\n{request.hex()}\nend")
        return list(netlink.read_untrusted(bytes.fromhex(said)))

    def device(self, name: str = "wg0") -> KernelDevice:
        return KernelDevice(name, self.ask)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the program that carries netlink messages into the guest")
    with Network("host") as network:
        carrier = network.directory / "netlink"
        command = [compiler, "-static", "-O1", "-o", str(carrier), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cc makes no static program here: {done.stderr.strip()[-200:]}")
        try:
            built = image.build(
                network.directory, guest4=GUEST4, guest6=GUEST6, more={"bin/netlink": carrier.read_bytes()}
            )
        except image.NotAvailableError as error:
            pytest.skip(f"no virtual machine: {error}")
        guest = Guest(network["host"], built)
        guest.wait()
        guest.run("ip link add wg0 type wireguard; ip link set wg0 up")
        yield Kernel(guest)


def public() -> PublicKey:
    return PublicKey.from_base64(public_of(new_key()))


def test_what_is_set_is_what_the_kernel_and_wg_show(kernel: Kernel) -> None:
    device = kernel.device()
    private, one, other = PrivateKey.from_base64(new_key()), public(), public()
    preshared = PresharedKey.from_base64(new_preshared_key())
    networks = [ip_network("10.1.0.0/16"), ip_network("10.2.0.1/32"), ip_network("fd00::/64")]
    device.write(
        DeviceChange(
            private_key=private,
            listen_port=4500,
            fwmark=0x51,
            replace_peers=True,
            peers=[
                PeerChange(
                    public_key=one,
                    preshared_key=preshared,
                    endpoint=Endpoint("192.0.2.1", 4500),
                    keepalive=25,
                    allowed_ips=networks,
                ),
                PeerChange(public_key=other, endpoint=Endpoint("2001:db8::1", 4501)),
            ],
        )
    )
    state = device.read()
    assert (state.private_key, state.listen_port, state.fwmark) == (private, 4500, 0x51)
    by_key = {peer.public_key: peer for peer in state.peers}
    assert by_key.keys() == {one, other}
    assert (by_key[one].preshared_key, by_key[one].keepalive) == (preshared, 25)
    assert by_key[one].endpoint == Endpoint("192.0.2.1", 4500)
    assert by_key[other].endpoint == Endpoint("2001:db8::1", 4501)
    assert set(by_key[one].allowed_ips) == set(networks)
    shown = {line.split("\t")[0]: line for line in kernel.guest.run("wg show wg0 dump").splitlines()[1:]}
    assert shown.keys() == {one.to_base64(), other.to_base64()}
    assert "192.0.2.1:4500" in shown[one.to_base64()]
    assert "10.1.0.0/16" in shown[one.to_base64()]


def test_a_peer_is_altered_and_goes(kernel: Kernel) -> None:
    device = kernel.device()
    one, other = public(), public()
    first, second = ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")
    device.write(
        DeviceChange(
            replace_peers=True,
            peers=[
                PeerChange(public_key=one, allowed_ips=[first], keepalive=9),
                PeerChange(public_key=other),
            ],
        )
    )
    device.write(
        DeviceChange(
            peers=[
                PeerChange(public_key=one, replace_allowed_ips=True, allowed_ips=[second], keepalive=0),
                PeerChange(public_key=other, remove=True),
                PeerChange(public_key=public(), update_only=True, keepalive=5),
            ]
        )
    )
    (peer,) = device.read().peers
    assert (peer.public_key, list(peer.allowed_ips), peer.keepalive) == (one, [second], 0)
    device.write(DeviceChange(private_key=NO_PRIVATE_KEY, replace_peers=True))
    state = device.read()
    assert (state.private_key, list(state.peers)) == (NO_PRIVATE_KEY, [])


def test_thousands_of_networks_and_hundreds_of_peers_go_in_and_come_back(kernel: Kernel) -> None:
    device = kernel.device()
    networks = [IPv4Network(((10 << 24) + number, 32)) for number in range(2600)]
    many = public()
    peers = [PeerChange(public_key=many, allowed_ips=networks)]
    peers += [PeerChange(public_key=public(), keepalive=number) for number in range(1, 21)]
    device.write(DeviceChange(replace_peers=True, peers=peers))
    state = device.read()
    assert {peer.public_key for peer in state.peers} == {peer.public_key for peer in peers}
    held = next(peer for peer in state.peers if peer.public_key == many)
    assert set(held.allowed_ips) == set(networks)


def test_keys_are_forgotten_and_the_peer_stays_as_it_was(kernel: Kernel) -> None:
    device = kernel.device()
    key = public()
    change = PeerChange(
        public_key=key,
        endpoint=Endpoint("192.0.2.1", 9),
        keepalive=25,
        allowed_ips=[ip_network("10.1.0.0/16")],
    )
    device.write(DeviceChange(replace_peers=True, peers=[change]))
    before = device.read()
    device.write(forget_keys(before, key))
    assert [(peer.endpoint, peer.keepalive, list(peer.allowed_ips)) for peer in device.read().peers] == [
        (peer.endpoint, peer.keepalive, list(peer.allowed_ips)) for peer in before.peers
    ]


def test_what_is_not_there_says_so(kernel: Kernel) -> None:
    with pytest.raises(NoDevice, match="no WireGuard interface wg9"):
        kernel.device("wg9").read()
    with pytest.raises(NoDevice, match="no WireGuard interface eth0"):
        kernel.device("eth0").read()
    kernel.guest.run("ip link add wg1 type wireguard; wg set wg1 listen-port 4600; ip link set wg1 up")
    with pytest.raises(UapiError) as caught:
        kernel.device().write(DeviceChange(listen_port=4600))
    assert caught.value.errno == errno.EADDRINUSE
