"""A machine of the lab: a network namespace, and programs in it.

A program runs through `ip netns exec`, as a user would do it by hand, so every command the demo prints can
be pasted. Sockets of the test process itself are made inside by a short-lived thread: a namespace belongs to
a thread.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.lab.errors import LabError
from tests.lab.process import Process

T = TypeVar("T")

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # <sched.h>; os.setns comes with Python 3.12 only
_libc = ctypes.CDLL(None, use_errno=True)


class Result(NamedTuple):
    """What a program that ended left: exit status, standard output, standard error."""

    code: int
    out: str
    err: str


class Machine:
    """One namespace; `name` is its part in the story, `namespace` what `ip netns` calls it."""

    def __init__(self, name: str, *, prefix: str, directory: Path) -> None:
        self.name = name
        self.namespace = f"{prefix}{name}"
        self.directory = directory
        self.processes: list[Process] = []
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "RAVEN_LAB": prefix,  # marks every descendant, wherever it hides
        }

    def __repr__(self) -> str:
        return f"Machine({self.name})"

    @property
    def interface(self) -> str:
        """Name for its WireGuard interface: UAPI sockets of all namespaces share one directory."""
        return self.namespace[:15]

    def command(self, *command: str) -> list[str]:
        """`command` as the host spells it."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def shown(self, *command: str) -> str:
        """`command` as a line to paste into a root shell."""
        return shlex.join(self.command(*command))

    def run(self, *command: str, seconds: float = 15, check: bool = True, text: str | None = None) -> Result:
        """Runs `command` to its end with `text` as its input; LabError on failure unless `check` is off."""
        try:
            done = subprocess.run(
                self.command(*command),
                input=text or "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                env=self.env,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: {shlex.join(command)} took more than {seconds:g} s") from None
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f"{self.name}: {shlex.join(command)} ended with {done.returncode}: {said}")
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *command: str, name: str = "", own_sys: bool = True) -> Process:
        """Starts `command` and keeps it until the world ends.

        `ip netns exec` mounts a /sys of the namespace, which hides /sys/fs/cgroup; `own_sys=False` keeps
        the host's.
        """
        name = name or f"{Path(command[0]).name}@{self.name}"
        log = self.directory / f"{name}.log"
        entered = ["nsenter", f"--net={NETNS / self.namespace}", "--", *command]
        process = Process(name, self.command(*command) if own_sys else entered, log=log, env=self.env)
        self.processes.append(process)
        return process

    def inside(self, work: Callable[[], T]) -> T:
        """What `work` returns when it runs in this machine's network; sockets it makes stay there."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def thread() -> None:
            try:
                descriptor = os.open(NETNS / self.namespace, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _libc.setns(descriptor, CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(descriptor)
                outcome.append(work())
            except BaseException as error:
                failure.append(error)

        worker = threading.Thread(target=thread, name=f"inside {self.name}")
        worker.start()
        worker.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def set_sysctl(self, **values: str | int) -> None:
        """Writes `net.*` sysctls of this namespace, dots written as double underscores."""

        def write() -> None:
            for name, value in values.items():
                Path("/proc/sys/net", *name.split("__")).write_text(str(value))

        self.inside(write)

    def stop_all(self) -> None:
        """Ends the programs, all at once, the last started first."""
        running: Sequence[Process] = [process for process in reversed(self.processes) if process.alive]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.stop()
