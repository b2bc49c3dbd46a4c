"""The `raven-wg` process behind an interface: started, watched, found again after a crash, ended.

Its control plane may die and come back without a packet noticing, so it runs in a session of its own and is
known by its pid and start time. A device that somebody else started is never ended from here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from raven.net.device import DeviceError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

PROGRAM = "raven-wg"
STOP_MAX = 5.0  # seconds between SIGTERM and SIGKILL
_LINE_MAX = 2000  # bytes of one line of its log that are kept
_LAST_LINES = 3  # that explain an early end
_TUN = Path("/dev/net/tun")
_CAP_NET_ADMIN = 12  # <linux/capability.h>


def find_program() -> str | None:
    """Where `raven-wg` is: beside this interpreter, where the package manager put it, or on the PATH."""
    beside = Path(sys.executable).parent / PROGRAM
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(PROGRAM)


def start_blocker() -> str:
    """Why no device can be started here, as a sentence; "" when nothing is known to be in the way."""
    if find_program() is None:
        return f"{PROGRAM} is neither beside {sys.executable} nor on the PATH"
    if not _may_administer_network():
        return "no CAP_NET_ADMIN: run as root, or give the service AmbientCapabilities=CAP_NET_ADMIN"
    if not _TUN.exists():
        return (
            f"{_TUN} is not there: load the tun module (modprobe tun), or pass the device into the container"
        )
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_TUN} cannot be opened: {error.strerror}"
    return ""


def _may_administer_network() -> bool:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return True  # the kernel has the last word


def start_time_of(pid: int) -> int | None:
    """When the process started, in ticks since boot: with the pid, its name for all of this boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])  # proc(5): field 22; the name may hold blanks
    except (OSError, ValueError, IndexError):
        return None


@dataclass(eq=False, slots=True)
class DeviceProcess:
    """A running `raven-wg` of ours."""

    pid: int
    start_time: int
    _pidfd: int
    _child: trio.Process | None = None  # None: an earlier process of ours started it
    _last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))

    @classmethod
    async def start(cls, command: list[str]) -> DeviceProcess:
        """Runs `command`, whose standard error `follow` has to read; DeviceError when it cannot be run."""
        try:
            child = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C at our terminal is for us, who then end it in order
            )
        except OSError as error:
            raise DeviceError(f"{command[0]} cannot be run: {error.strerror or error}") from error
        start_time = start_time_of(child.pid)
        assert start_time is not None, "an unreaped child keeps its place in /proc"
        return cls(child.pid, start_time, os.pidfd_open(child.pid), child)

    @classmethod
    def find(cls, pid: int, start_time: int) -> DeviceProcess | None:
        """The process an earlier run started, if it is still that one."""
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        if start_time_of(pid) != start_time:
            os.close(pidfd)
            return None
        return cls(pid, start_time, pidfd)

    async def follow(self, log: FilteringBoundLogger) -> None:
        """Passes what it says into `log`, line by line, until it ends."""
        if self._child is None or self._child.stderr is None:
            return  # its standard error went with the process that started it
        buffered = b""
        async for data in self._child.stderr:
            *lines, buffered = (buffered + data).split(b"\n")
            if len(buffered) > _LINE_MAX:
                lines, buffered = [*lines, buffered], b""
            for line in lines:
                self._heard(line, log)
        self._heard(buffered, log)

    def _heard(self, line: bytes, log: FilteringBoundLogger) -> None:
        if text := line[:_LINE_MAX].decode("utf-8", "replace").rstrip():
            self._last_lines.append(text)
            log.info("raven-wg", says=text)

    async def wait_ended(self) -> str:
        """Waits for its end, and returns how that came as a sentence."""
        await trio.lowlevel.wait_readable(self._pidfd)
        code = await self._child.wait() if self._child is not None else None
        how = (
            "ended" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        )
        said = f": {' / '.join(self._last_lines)}" if self._last_lines else ""
        return f"{PROGRAM} {how}{said}"

    async def stop(self) -> None:
        """Ends it and waits until it has ended; to be called shielded, takes at most STOP_MAX."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with trio.move_on_after(STOP_MAX):
                await self.wait_ended()
                return

    async def close(self) -> None:
        """Forgets the process, running or not."""
        os.close(self._pidfd)
        if self._child is not None and self._child.stderr is not None:
            await self._child.stderr.aclose()
