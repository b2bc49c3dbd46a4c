"""One running program of the lab: its log, its end, and what it costs.

Every program leads its own session, so that a Ctrl-C at the terminal reaches only the lab, which then ends
the programs in order; what a program forks dies with its group.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.waiting import wait_until

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LISTEN = "0A"  # state column of /proc/net/tcp


class Process:
    """A program started by the lab; its output goes to `log`."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._command, self._env = command, dict(env)
        self.start()

    def start(self) -> None:
        """Called again after its end: the same program once more."""
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def text(self) -> str:
        """What the program has said so far."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """The exit status; LabError when it is still running after `seconds`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} still runs after {seconds:g} s\n{self.tail()}") from None

    def ready(self, port: int, *, seconds: float = 15) -> "Process":
        """Itself, once something in its namespace listens on TCP `port`."""

        def look() -> bool:
            if not self.alive:
                raise LabError(f"{self.name} ended with {self._popen.returncode}\n{self.tail()}")
            return port in self.listening()

        try:
            wait_until(look, what=f"{self.name} to listen on port {port}", seconds=seconds)
        except LabError as error:
            raise LabError(f"{error}\n{self.tail()}") from None
        return self

    def listening(self) -> set[int]:
        """TCP ports with a listener in the program's namespace, seen without touching them."""
        ports: set[int] = set()
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                    columns = line.split()
                    if columns[3] == _LISTEN:
                        ports.add(int(columns[1].rpartition(":")[2], 16))
        return ports

    def send_signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def stop(self, seconds: float = 8) -> int:
        """The exit status after SIGTERM; what outlives `seconds`, or stays behind in the group, is killed."""
        if self.alive:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
        self.kill()
        return self._popen.returncode

    def kill(self) -> None:
        """The whole group ends now, without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of the log, for an error message."""
        return "\n".join(f"    {line}" for line in self.text().splitlines()[-lines:])

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE

    def cpu_seconds(self) -> float:
        """User and system time so far, of the program itself."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
