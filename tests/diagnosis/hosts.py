"""An edge and a cloud in namespaces of their own, with a router between them.

edge ───────── router ───────── cloud
192.168.7.10   .1    198.51.100.1   198.51.100.10, fd00:51::10
"""

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import leftovers, wires
from tests.lab.machine import Machine

EDGE = "192.168.7.10"
CLOUD6 = "fd00:51::10"


@dataclass
class Hosts:
    """The three machines."""

    edge: Machine
    router: Machine
    cloud: Machine

    def resolver(self, *servers: str) -> None:
        """Gives the edge a resolv.conf of its own, which `ip netns exec` puts in place."""
        directory = Path("/etc/netns", self.edge.namespace)
        directory.mkdir(parents=True, exist_ok=True)
        lines = [*(f"nameserver {server}" for server in servers), "options timeout:1 attempts:1"]
        (directory / "resolv.conf").write_text("\n".join(lines) + "\n")

    def drop_udp(self) -> None:
        """The router lets TCP pass and nothing of UDP, as some hotels do."""
        rules = "table inet rvd { chain f { type filter hook forward priority 0; meta l4proto udp drop; }; }"
        self.router.run("nft", "-f", "-", text=rules)


@contextlib.contextmanager
def hosts(directory: Path) -> Iterator[Hosts]:
    """Wired and addressed; everything in them ends with the block."""
    prefix = f"rvd{secrets.token_hex(2)}-"
    edge, router, cloud = (
        Machine(name, prefix=prefix, directory=directory) for name in ("edge", "mid", "gw")
    )
    netns = Path("/etc/netns", edge.namespace)
    made = not netns.parent.exists()
    try:
        for machine in (edge, router, cloud):
            wires.ip([f"netns add {machine.namespace}"])
        wires.plug(edge, "eth0", router, "lan")
        wires.plug(router, "wan", cloud, "eth0")
        wires.ip(
            [f"addr add {EDGE}/24 dev eth0", "route add default via 192.168.7.1"], namespace=edge.namespace
        )
        wires.ip(
            [
                "addr add 192.168.7.1/24 dev lan",
                f"addr add {wires.CLOUD_ROUTER}/24 dev wan",
                "addr add fd00:7::1/64 dev lan nodad",
                "addr add fd00:51::1/64 dev wan nodad",
            ],
            namespace=router.namespace,
        )
        wires.ip(
            [
                f"addr add {wires.CLOUD}/24 dev eth0",
                f"addr add {CLOUD6}/64 dev eth0 nodad",
                f"route add default via {wires.CLOUD_ROUTER}",
            ],
            namespace=cloud.namespace,
        )
        router.set_sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        yield Hosts(edge, router, cloud)
    finally:
        for machine in (edge, router, cloud):
            machine.stop_all()
        leftovers.remove(prefix)
        for path in (netns / "resolv.conf", netns, *([netns.parent] if made else [])):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


@contextlib.contextmanager
def no_such_name(machine: Machine) -> Iterator[None]:
    """A name server on the loopback of `machine` that answers every question with NXDOMAIN."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 53))
        return sock

    server = machine.inside(make)
    worker = threading.Thread(target=_answer, args=(server,))
    worker.start()
    try:
        yield
    finally:
        machine.inside(lambda: _tell_to_end(server))
        worker.join()
        server.close()


def _answer(server: socket.socket) -> None:
    while True:
        question, asker = server.recvfrom(512)
        if not question:
            return
        # RFC 1035, section 4.1.1: the same id and question; QR, RD, RA, and RCODE 3
        server.sendto(question[:2] + b"\x81\x83" + question[4:6] + bytes(6) + question[12:], asker)


def _tell_to_end(server: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as teller:
        teller.sendto(b"", server.getsockname())
