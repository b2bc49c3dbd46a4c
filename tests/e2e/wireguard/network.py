"""Hosts, cables and `raven-wg` devices for the scenarios, and nothing else of Raven.

Everything carries one prefix, so that the lab's own sweep removes it and finds what stayed. Devices are told
what to do by `wg`, as a user would; nothing here reads the process from within.
"""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from tests.lab import leftovers, uapi, wires
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until

LEFT4, LEFT6 = "10.9.0.1", "fd09::1"  # inside, of `two_hosts`
RIGHT4, RIGHT6 = "10.9.0.2", "fd09::2"


class Transfer(NamedTuple):
    """Bytes of datagrams, as `wg show transfer` counts them."""

    received: int
    sent: int


class Interface:
    """A `raven-wg` device on a machine, with a key of its own; `wrapper` is a program to run it under."""

    def __init__(self, machine: Machine, name: str, *wrapper: str) -> None:
        self.machine = machine
        self.name = name
        self.private_key = new_key()
        self.public_key = public_of(self.private_key)
        self.process = machine.start(*wrapper, "raven-wg", "--foreground", name, name=f"raven-wg-{name}")

    def answers(self) -> bool:
        return (leftovers.WIREGUARD / f"{self.name}.sock").is_socket()

    def set(self, *words: str, stdin: str = "") -> None:
        """`wg set`, which takes keys from files: `/dev/stdin` is `stdin`."""
        self.machine.run("wg", "set", self.name, *words, text=stdin)

    def configure(self, *lines: str, port: int = 51820) -> None:
        """`wg setconf`: our key and `port`, then `lines`. Peers start anew, and know nothing of before."""
        text = "\n".join(["[Interface]", f"PrivateKey={self.private_key}", f"ListenPort={port}", *lines])
        self.machine.run("wg", "setconf", self.name, "/dev/stdin", text=text + "\n")

    def show(self, what: str) -> dict[str, str]:
        """`wg show`'s table: a line's first word (a peer's key) and what follows."""
        lines = self.machine.run("wg", "show", self.name, what).out.splitlines()
        return {key: value for key, _, value in (line.partition("\t") for line in lines)}

    def endpoint(self, peer: "Interface") -> str:
        return self.show("endpoints")[peer.public_key]

    def transfer(self, peer: "Interface") -> Transfer:
        return Transfer(*map(int, self.show("transfer")[peer.public_key].split()))

    def drops(self) -> dict[str, int]:
        """Drops by reason, by the one verb that `wg` does not have."""
        return uapi.counters(self.name)

    def ip(self, *lines: str) -> None:
        """`ip` in the machine; `{}` stands for the interface's name."""
        wires.ip([line.format(self.name) for line in lines], namespace=self.machine.namespace)

    def cpu_seconds(self) -> float:
        return self.process.cpu_seconds()


class Network:
    """The machines of one topology, gone with the block and everything in them."""

    def __init__(self, *names: str) -> None:
        self.prefix = f"rvk{secrets.token_hex(2)}-"
        self.directory = leftovers.directory_of(self.prefix)
        self.machines = {name: Machine(name, prefix=self.prefix, directory=self.directory) for name in names}

    def __enter__(self) -> Self:
        try:
            self.directory.mkdir(mode=0o700)
            (self.directory / "owner").write_text(str(os.getpid()))
            for machine in self.machines.values():
                wires.ip([f"netns add {machine.namespace}"])
                # An address that is first checked for a second is none the scenarios have time for.
                machine.set_sysctl(
                    ipv6__conf__default__accept_dad=0,
                    ipv6__conf__all__accept_dad=0,
                    ipv4__conf__all__rp_filter=0,
                    ipv4__conf__default__rp_filter=0,
                    ipv4__conf__default__promote_secondaries=1,
                )
                wires.ip(["link set lo up"], namespace=machine.namespace)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def devices(self, *places: tuple[str, str]) -> list[Interface]:
        """A device for each (machine, last part of its name), started together, and answering."""
        devices = [Interface(self[machine], f"{self.prefix}{name}") for machine, name in places]
        for device in devices:
            wait_until(lambda d=device: d.answers(), what=device.name, seconds=20)  # type: ignore[misc]
        return devices

    def close(self) -> None:
        for machine in self.machines.values():
            machine.stop_all()
        leftovers.remove(self.prefix)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Interface, Interface]]:
    """Two machines on one wire, with a device each: LEFT and RIGHT inside, 192.0.2.x and fd01::x outside."""
    with Network("left", "right") as network:
        left, right = network.devices(("left", "l"), ("right", "r"))
        wires.plug(left.machine, "eth0", right.machine, "eth0")
        left.ip("addr add 192.0.2.1/24 dev eth0", "addr add fd01::1/64 dev eth0")
        right.ip("addr add 192.0.2.2/24 dev eth0", "addr add fd01::2/64 dev eth0")
        left.ip(f"addr add {LEFT4}/24 dev {{}}", f"addr add {LEFT6}/112 dev {{}}", "link set {} up")
        right.ip(f"addr add {RIGHT4}/24 dev {{}}", f"addr add {RIGHT6}/112 dev {{}}", "link set {} up")
        yield left, right


def new_key() -> str:
    return _wg("genkey")


def public_of(private_key: str) -> str:
    return _wg("pubkey", private_key)


def new_preshared_key() -> str:
    return _wg("genpsk")


def _wg(verb: str, text: str = "") -> str:
    return subprocess.run(["wg", verb], input=text, capture_output=True, text=True, check=True).stdout.strip()


def peer_lines(peer: Interface, allowed_ips: str, *, endpoint: str = "", keepalive: int = 0) -> list[str]:
    """A peer's section of a configuration file."""
    lines = ["[Peer]", f"PublicKey={peer.public_key}", f"AllowedIPs={allowed_ips}"]
    if endpoint:
        lines.append(f"Endpoint={endpoint}")
    if keepalive:
        lines.append(f"PersistentKeepalive={keepalive}")
    return lines


def ping(machine: Machine, address: str, *options: str, count: int = 1) -> bool:
    """Whether all echoes of `count` came back, each within a second."""
    every = "0.01" if count > 1 else "1"
    command = ("ping", "-n", "-q", "-c", str(count), "-i", every, "-W", "1", *options, address)
    return machine.run(*command, check=False).code == 0


def pings(machine: Machine, address: str, *options: str, count: int = 1) -> None:
    assert ping(machine, address, *options, count=count), f"{machine.name} hears nothing from {address}"


@contextlib.contextmanager
def rule(machine: Machine, words: str, *, hook: str = "input") -> Iterator[Callable[[], str]]:
    """An nftables rule while the block runs; yields a function that lists it as it is then."""
    chain = f"chain seen {{\n type filter hook {hook} priority 0\n {words}\n }}"
    machine.run("nft", "-f", "-", text=f"table inet scenario {{\n {chain}\n}}\n")
    try:
        yield lambda: machine.run("nft", "list", "table", "inet", "scenario").out
    finally:
        machine.run("nft", "delete", "table", "inet", "scenario")


def carry_tcp(client: Machine, server: Machine, address: str, *, size: str = "8M") -> None:
    """iperf3 carries `size` bytes from client to server."""
    process = server.start("iperf3", "-s", "-1", "-B", address, name=f"iperf3@{server.name}").ready(5201)
    client.run("iperf3", "-c", address, "-n", size, "-C", "cubic", seconds=20)
    process.wait(5)
