"""Two hosts on one wire, each with a userspace WireGuard device of some implementation.

a ── eth0 192.0.2.1, 2001:db8::1 ────── eth0 192.0.2.2, 2001:db8::2 ── b
     device: 10.9.0.1, fd09::1                 10.9.0.2, fd09::2
"""

import contextlib
import itertools
import json
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab import leftovers, uapi, wires
from tests.lab.errors import LabError
from tests.lab.machine import Machine
from tests.lab.process import Process
from tests.lab.waiting import wait_until

RAVEN = "raven-wg"
GO = "wireguard-go"  # Debian's, of 2022


_ports = itertools.count(5201)


class Host:
    """One end: a machine, its addresses, and its device once it was started."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number
        self.interface = machine.interface
        self.port = 51820 + number
        self.outer4, self.outer6 = f"192.0.2.{number}", f"2001:db8::{number}"
        self.inner4, self.inner6 = f"10.9.0.{number}", f"fd09::{number}"
        self.private = machine.run("wg", "genkey").out.strip()
        self.public = machine.run("wg", "pubkey", text=self.private).out.strip()
        self.process: Process | None = None

    def start(self, implementation: str, *, mtu: int = 1420, faster: int = 0) -> None:
        """Starts the device with key, port and addresses, up, no peer yet; `faster`: times, of its clock."""
        hurry = ("faketime", "-f", f"+0 x{faster}") if faster else ()
        self.process = self.machine.start(*hurry, implementation, "-f", self.interface)
        wait_until(self.answers, what=f"the socket of {implementation}", seconds=15)
        self.wg("listen-port", str(self.port), "private-key", self._file("private", self.private))
        wires.ip(
            [
                f"addr add {self.inner4}/24 dev {self.interface}",
                f"addr add {self.inner6}/64 dev {self.interface} nodad",
                f"link set {self.interface} mtu {mtu} up",
            ],
            namespace=self.machine.namespace,
        )

    def answers(self) -> bool:
        if self.process is not None and not self.process.alive:
            raise LabError(f"{self.process.name} ended\n{self.process.tail()}")
        return self.machine.run("wg", "show", self.interface, check=False).code == 0

    def wg(self, *words: str) -> None:
        """`wg set` on the device."""
        self.machine.run("wg", "set", self.interface, *words)

    def add_peer(self, other: "Host", *, endpoint: str = "", preshared: str = "", keepalive: int = 0) -> None:
        """Configures `other` as a peer; only with an `endpoint` can this end begin a handshake."""
        words = ["peer", other.public, "allowed-ips", f"{other.inner4}/32,{other.inner6}/128"]
        if endpoint:
            words += [
                "endpoint",
                f"[{endpoint}]:{other.port}" if ":" in endpoint else f"{endpoint}:{other.port}",
            ]
        if preshared:
            words += ["preshared-key", self._file("preshared", preshared)]
        if keepalive:
            words += ["persistent-keepalive", str(keepalive)]
        self.wg(*words)

    def shown(self) -> dict[str, str]:
        """The only peer as `wg show dump` prints it, by column."""
        lines = self.machine.run("wg", "show", self.interface, "dump").out.splitlines()
        columns = ("public", "preshared", "endpoint", "allowed", "handshake", "rx", "tx", "keepalive")
        return dict(zip(columns, lines[1].split("\t"), strict=True))

    def configure(self, *lines: str) -> None:
        """Sends `lines` as one `set=1` operation; LabError when the device refuses."""
        with socket.socket(socket.AF_UNIX) as uapi:
            uapi.settimeout(10)
            uapi.connect(f"/var/run/wireguard/{self.interface}.sock")
            uapi.sendall(("\n".join(("set=1", *lines)) + "\n\n").encode())
            answer = uapi.recv(4096).decode().strip()
        if answer != "errno=0":
            raise LabError(f"{self.interface}: {answer} to {lines}")

    def counters(self) -> dict[str, int]:
        """Drops by reason; only raven-wg counts them."""
        return uapi.counters(self.interface)

    def _file(self, name: str, text: str) -> str:
        path = self.machine.directory / f"{self.interface}.{name}"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)


@contextlib.contextmanager
def pair(directory: Path) -> Iterator[tuple[Host, Host]]:
    """Both hosts, wired, without devices. Everything in them ends with the block."""
    prefix = f"rvn{secrets.token_hex(2)}-"
    machines = [Machine(name, prefix=prefix, directory=directory) for name in ("a", "b")]
    try:
        wires.ip([f"netns add {machine.namespace}" for machine in machines])
        wires.plug(machines[0], "eth0", machines[1], "eth0")
        hosts = Host(machines[0], 1), Host(machines[1], 2)
        for host in hosts:
            wires.ip(
                [f"addr add {host.outer4}/24 dev eth0", f"addr add {host.outer6}/64 dev eth0 nodad"],
                namespace=host.machine.namespace,
            )
        yield hosts
    finally:
        for machine in machines:
            machine.stop_all()
        leftovers.remove(prefix)


def missing(*implementations: str) -> str:
    """Why a test cannot run with these, or ""."""
    absent = [
        name for name in (*implementations, "wg", "iperf3") if name != RAVEN and shutil.which(name) is None
    ]
    return f"not installed: {', '.join(absent)}" if absent else ""


def tcp_stream(client: Host, server: Host, address: str, *, mebibytes: int = 16) -> int:
    """Bytes that `server` had received at `address` when the last of that many were sent by TCP."""
    report = _iperf(client, server, address, "-n", f"{mebibytes}M", "-C", "cubic")
    return int(report["end"]["sum_received"]["bytes"])


def udp_stream(
    client: Host, server: Host, address: str, *, megabits: int, length: int, count: int
) -> tuple[int, int]:
    """Sends `count` datagrams to `server` at `address`: how many were sent, and lost."""
    words = ("-u", "-b", f"{megabits}M", "-l", str(length), "-k", str(count))
    total = _iperf(client, server, address, *words)["end"]["sum"]
    return total["packets"], total["lost_packets"]


def _iperf(client: Host, server: Host, address: str, *words: str) -> Any:
    """iperf3's report. A server for each, on a port of its own: one that served before may be busy yet."""
    port = next(_ports)
    command = ("iperf3", "-s", "-1", "-p", str(port))
    server.machine.start(*command, name=f"iperf3@{server.interface}-{port}").ready(port)
    return json.loads(
        client.machine.run("iperf3", "-c", address, "-p", str(port), *words, "-J", seconds=30).out
    )
