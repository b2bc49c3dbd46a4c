"""A packet lane of a test: `lane_driver` on a host, its orders, and what it says."""

import base64
import signal
from pathlib import Path

import msgspec

from raven.keys import PublicKey
from tests.lab import leftovers
from tests.lab.machine import Machine
from tests.lab.process import Process
from tests.lab.waiting import wait_until
from tests.net.lane_driver import OrderedMember, Orders, Status


class Lane:
    """One lane, not running until `start`."""

    def __init__(self, machine: Machine, name: str = "lane", **orders: object) -> None:
        self.machine = machine
        self.state = machine.directory / name
        self.state.mkdir()
        self.file = machine.directory / f"{name}.json"
        self.name = name
        private, public = make_keys(machine)
        self.public_key = public
        self.orders = Orders(
            interface=machine.interface,
            private_key=private,
            public_key=public,
            state_dir=str(self.state),
            members=[],
            **orders,  # type: ignore[arg-type]
        )
        self.process: Process | None = None

    def order(self, members: list[OrderedMember]) -> None:
        """Gives it a new plan, running or not."""
        self.orders = msgspec.structs.replace(self.orders, members=members)
        self.file.write_bytes(msgspec.json.encode(self.orders))
        if self.process is not None and self.process.alive:
            self.process.send_signal(signal.SIGUSR1)

    def start(self, *wrapper: str) -> Process:
        """Starts it, below `wrapper` if given; returns when the first attempt has ended."""
        if not self.file.exists():
            self.order([])
        status = Path(f"{self.file}.status")
        status.unlink(missing_ok=True)
        command = ("python", "-m", "tests.net.lane_driver", str(self.file))
        process = self.process = self.machine.start(*wrapper, *command, name=self.name)

        def started() -> bool:
            assert process.alive, process.text()
            return status.exists()

        wait_until(started, what="the first attempt of a lane", seconds=40)
        return process

    def status(self) -> Status:
        return msgspec.json.decode(Path(f"{self.file}.status").read_bytes(), type=Status)

    def stop(self) -> int:
        assert self.process is not None
        return self.process.stop(seconds=20)

    def kill(self) -> None:
        """As a crash does: this process alone, and what it started lives on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(5)

    def peers(self) -> set[str]:
        """Public keys of the device's peers, as `wg` shows them."""
        return set(self.machine.run("wg", "show", self.orders.interface, "peers").out.split())

    def routes(self) -> set[str]:
        """Destinations of IPv4 routes over the interface."""
        shown = self.machine.run("ip", "-4", "route", "show", "dev", self.orders.interface, check=False).out
        return {line.split()[0] for line in shown.splitlines()}


def make_keys(machine: Machine) -> tuple[str, str]:
    """A private and its public key in base64, by `wg`."""
    private = machine.run("wg", "genkey").out.strip()
    return private, machine.run("wg", "pubkey", text=private).out.strip()


def fake_key(number: int) -> str:
    """A public key that nobody holds the private key of."""
    return base64.b64encode(PublicKey(bytes([number]) * 32)).decode()


WIREGUARD_GO = ["wireguard-go", "-f"]  # another implementation behind the same interface
SITE_A = OrderedMember(name="a", public_key=fake_key(1), pod_cidrs=["10.1.0.0/24"])
SITE_B = OrderedMember(name="b", public_key=fake_key(2), pod_cidrs=["10.2.0.0/24"])
SITE_C = OrderedMember(name="c", public_key=fake_key(4), pod_cidrs=["10.3.0.0/24"])


def hub(machine: Machine, program: list[str] | None = WIREGUARD_GO) -> Lane:
    lane = Lane(machine, program=program, listen_port=4500)
    lane.order([own(lane)])
    return lane


def own(lane: Lane) -> OrderedMember:
    return OrderedMember(name="hub", public_key=lane.public_key, pod_cidrs=["10.0.0.0/24"], hub=True)


def settle(lane: Lane, *members: OrderedMember) -> None:
    """Orders `members` beside the hub, and waits until the device has them."""
    lane.order([own(lane), *members])
    keys = {member.public_key for member in members}
    networks = {network for member in members for network in member.pod_cidrs}
    wait_until(
        lambda: lane.peers() == keys and lane.routes() == networks, what="the plan to be held", seconds=10
    )


def socket_of(machine: Machine) -> Path:
    return leftovers.WIREGUARD / f"{machine.interface}.sock"


def answers(machine: Machine) -> bool:
    return machine.run("wg", "show", machine.interface, check=False).code == 0
