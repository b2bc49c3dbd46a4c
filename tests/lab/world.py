"""A cloud and some sites, built on entry and gone on exit, whatever happened in between.

Ctrl-C, SIGTERM and a closed terminal end the block like an exception does; while it clears up, the same
signals wait. A builder killed outright leaves a world that `python -m tests.lab clean` removes.
"""

import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Self

from tests.lab import leftovers, wires
from tests.lab.errors import LabError
from tests.lab.machine import NETNS, Machine

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Site:
    """One edge site: its router, the machine the agent runs on, and a pod behind that."""

    def __init__(self, letter: str, number: int, *, nat: Machine, machine: Machine, pod: Machine) -> None:
        self.letter = letter
        self.number = number
        self.name = machine.name  # also the node name its agent joins with
        self.nat = nat
        self.machine = machine
        self.pod = pod
        self.nat_address = wires.nat_address(number)
        self.pod_address = wires.pod_address(number)
        self.pod_address6 = wires.pod_address6(number)
        self.pod_cidrs = wires.pod_cidrs(number)


class World:
    """The lab while it stands; see `wires` for the picture."""

    def __init__(self, sites: Sequence[str] = ("a", "b")) -> None:
        self.prefix = f"rvn{secrets.token_hex(2)}-"
        self.directory = leftovers.directory_of(self.prefix)
        self._letters = sites
        self._handlers: dict[signal.Signals, object] = {}
        self._made = [path for path in (leftovers.WIREGUARD, NETNS) if not path.is_dir()]
        self.machines: dict[str, Machine] = {}
        self.sites: dict[str, Site] = {}

    def __enter__(self) -> Self:
        self._catch_signals()
        try:
            self.directory.mkdir(mode=0o700)
            (self.directory / "owner").write_text(str(os.getpid()))
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _build(self) -> None:
        self.internet = self._machine("internet")
        self.cloud = self._machine("cloud")
        self.cloud_pod = self._machine("cloud-pod")
        wires.wire_cloud(self.cloud, self.internet)
        wires.wire_pod(self.cloud, self.cloud_pod, number=0)
        for number, letter in enumerate(self._letters, 1):
            nat, machine, pod = (self._machine(f"{role}-{letter}") for role in ("nat", "site", "pod"))
            wires.wire_site(self.internet, nat, machine, letter=letter, number=number)
            wires.wire_pod(machine, pod, number=number)
            self.sites[letter] = Site(letter, number, nat=nat, machine=machine, pod=pod)

    def _machine(self, name: str) -> Machine:
        machine = Machine(name, prefix=self.prefix, directory=self.directory)
        wires.ip([f"netns add {machine.namespace}"])
        self.machines[name] = machine
        return machine

    def set_uplink(self, letter: str, *, up: bool) -> None:
        """Pulls or plugs the cable between the internet and a site's router."""
        wires.set_uplink(self.internet, letter, up=up)

    def close(self) -> None:
        """Ends every program and removes the world; LabError names what stayed behind."""
        with _held(_SIGNALS):
            try:
                for machine in reversed(self.machines.values()):
                    machine.stop_all()
            finally:
                leftovers.remove(self.prefix)
                for path in self._made:
                    leftovers.remove_empty(path)
        self._release_signals()

    def _catch_signals(self) -> None:
        """SIGTERM and SIGHUP become an exception, as SIGINT is one already."""

        def end(number: int, frame: FrameType | None) -> None:
            raise SystemExit(128 + number)

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, end)

    def _release_signals(self) -> None:
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)
        self._handlers.clear()


@contextlib.contextmanager
def _held(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Delivers `numbers` only after the block, which must be bounded in time.

    By handlers, not by a mask: a mask covers one thread, and Python runs handlers whichever thread was hit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def missing() -> str:
    """Why no world can be built here, as a sentence; "" when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"rvn{secrets.token_hex(2)}-try"
    made = not NETNS.is_dir()
    try:
        wires.ip([f"netns add {name}"])
        wires.ip([f"netns del {name}"])
        if made:
            leftovers.remove_empty(NETNS)
    except FileNotFoundError:
        return "iproute2 is not installed"
    except LabError as error:
        return f"no network namespaces here: {error}"
    return ""
