"""The packet devices that are compared, and where: on one wire, between pods behind hosts, before many peers.

All contestants stand at once; what is not measured is idle. Both ends of each share the machine's cores.
"""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, NamedTuple

from bench.initiators import SOURCES
from raven.dataplane.ciphers import superframe_ciphers
from raven.keys import PrivateKey, PublicKey
from tests.interop.pair import GO, RAVEN, Host, pair
from tests.lab import programs, wires
from tests.lab.errors import LabError
from tests.lab.machine import Machine
from tests.lab.world import World

_SO_RCVBUFFORCE: Final = 33
_CIPHER: Final = superframe_ciphers()[0]  # the one that a control plane takes on this machine
_INNER: Final = int(IPv4Address("10.10.0.0"))


class Contestant(NamedTuple):
    """One implementation, as a column of the table calls it."""

    name: str
    program: str
    ours: bool = False
    superframes: bool = False


class Place(NamedTuple):
    """Where one contestant is measured: traffic goes from `client` to `server` at `address`."""

    client: Machine
    server: Machine
    address: str
    devices: tuple[Host, Host]  # the client's side first


DEBIAN = Contestant("wireguard-go (Debian)", GO)
PLAIN = Contestant("raven-wg", RAVEN, ours=True)
SUPERFRAMES = Contestant("raven-wg, superframes", RAVEN, ours=True, superframes=True)


def contestants() -> list[Contestant]:
    """Debian's wireguard-go, the one that WIREGUARD_GO names, and ours; LabError if one is missing."""
    chosen = [DEBIAN]
    newer = os.environ.get("WIREGUARD_GO")
    if newer:
        chosen.append(Contestant("wireguard-go (newer)", newer))
    for one in chosen:
        if shutil.which(one.program) is None:
            raise LabError(f"{one.program} is not installed")
    return [*chosen, PLAIN, SUPERFRAMES]


@contextlib.contextmanager
def one_wire(contestant: Contestant) -> Iterator[Place]:
    """Two hosts on one wire whose devices have shaken hands, an iperf3 server at the second."""
    with tempfile.TemporaryDirectory(prefix="rvn-bench-") as directory, pair(Path(directory)) as hosts:
        a, b = hosts
        for host in hosts:
            host.start(contestant.program)
        a.add_peer(b, endpoint=b.outer4)
        b.add_peer(a)
        _prepare(contestant, a, b)
        programs.ping(a.machine, b.inner4)
        programs.iperf_server(b.machine)
        yield Place(a.machine, b.machine, b.inner4, hosts)


@contextlib.contextmanager
def pods(contestant: Contestant) -> Iterator[Place]:
    """A pod of the cloud and one of a site behind its NAT; the hosts forward (see tests.lab.wires)."""
    with World(("a",)) as world:
        site = world.sites["a"]
        cloud, edge = Host(world.cloud, 1), Host(site.machine, 2)
        for host in (cloud, edge):
            host.start(contestant.program)
        cloud.wg("peer", edge.public, "allowed-ips", ",".join(site.pod_cidrs))
        edge.wg(
            *("peer", cloud.public, "allowed-ips", ",".join(wires.pod_cidrs(0))),
            *("endpoint", f"{wires.CLOUD}:{cloud.port}", "persistent-keepalive", "1"),
        )
        for host, remote in ((cloud, site.pod_cidrs), (edge, wires.pod_cidrs(0))):
            routes = [f"route add {cidr} dev {host.interface}" for cidr in remote]
            wires.ip(routes, namespace=host.machine.namespace)
        _prepare(contestant, cloud, edge)
        programs.ping_until(world.cloud_pod, site.pod_address, seconds=15)
        programs.iperf_server(site.pod)
        yield Place(world.cloud_pod, site.pod, site.pod_address, (cloud, edge))


def _prepare(contestant: Contestant, a: Host, b: Host) -> None:
    """What a control plane that knows both ends would switch on."""
    if contestant.superframes:
        for host, other in ((a, b), (b, a)):
            key = PublicKey.from_base64(other.public).hex()
            host.configure(f"public_key={key}", "update_only=true", f"raven_superframes={_CIPHER}")


class Hub(NamedTuple):
    """One device, and a socket with many addresses on the host beside it."""

    device: Host
    sender: socket.socket

    @property
    def address(self) -> tuple[str, int]:
        return self.device.outer4, self.device.port

    def resident(self) -> int:
        """Bytes of memory that the device has now."""
        assert self.device.process is not None
        return self.device.process.resident_bytes()

    def add_peers(self, keys: Sequence[PublicKey]) -> None:
        """Configures them, in one go and with an address each."""
        lines = ["[Interface]", f"PrivateKey = {self.device.private}", f"ListenPort = {self.device.port}"]
        for number, key in enumerate(keys, 1):
            lines += [
                "[Peer]",
                f"PublicKey = {key.to_base64()}",
                f"AllowedIPs = {IPv4Address(_INNER + number)}/32",
            ]
        path = self.device.machine.directory / "hub.conf"
        path.write_text("\n".join(lines) + "\n")
        self.device.machine.run("wg", "setconf", self.device.interface, str(path))


@contextlib.contextmanager
def hub(contestant: Contestant, private: PrivateKey) -> Iterator[Hub]:
    """A device with that private key and no peer."""
    with tempfile.TemporaryDirectory(prefix="rvn-bench-") as directory, pair(Path(directory)) as (a, b):
        a.private = private.to_base64()
        a.start(contestant.program)
        wires.ip([f"route add local {SOURCES} dev lo"], namespace=b.machine.namespace)
        wires.ip([f"route add {SOURCES} via {b.outer4}"], namespace=a.machine.namespace)
        with b.machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.setblocking(False)
            sender.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)  # answers to a whole burst
            sender.bind(("0.0.0.0", 0))
            yield Hub(a, sender)
