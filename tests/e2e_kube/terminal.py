"""kubectl as somebody at a keyboard runs it: with a pseudo-terminal or without, and read as it speaks."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from types import TracebackType
from typing import Self

from tests.e2e_kube.control_plane import ApiServer
from tests.lab.errors import LabError


class Running:
    """A kubectl that runs until it ends or the block does; what it prints is read as it comes."""

    def __init__(self, server: ApiServer, *arguments: str, tty: bool = False) -> None:
        self._shown = " ".join(("kubectl", *arguments))
        command = server.machine.command(*server.command(*arguments))
        theirs: int | None = None
        if tty:
            self._ours, theirs = pty.openpty()
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if theirs is None else theirs,
            stdout=subprocess.PIPE if theirs is None else theirs,
            stderr=subprocess.STDOUT if theirs is None else theirs,
            env={**server.machine.env, "TERM": "xterm"},
            start_new_session=True,
        )
        if theirs is None:
            assert self._popen.stdin is not None
            assert self._popen.stdout is not None
            self._in, self._out = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        else:
            os.close(theirs)
            self._in = self._out = self._ours
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._popen.stdin is None:
            os.close(self._ours)
        else:
            assert self._popen.stdout is not None
            self._popen.stdin.close()
            self._popen.stdout.close()

    def type(self, text: str) -> None:
        """Writes to its standard input."""
        os.write(self._in, text.encode())

    def end_input(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()

    def resize(self, rows: int, columns: int) -> None:
        """As dragging the corner of the window does."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.killpg(self._popen.pid, signal.SIGWINCH)

    def until(self, text: str, *, seconds: float = 30) -> str:
        """Everything said so far, once `text` is in what came since the last call; LabError otherwise."""
        begun = len(self.said)
        deadline = time.monotonic() + seconds
        while text not in self.said[begun:]:
            if not self._read(deadline - time.monotonic()):
                raise LabError(f"{self._shown}: waited for {text!r}, it said {self.said[-500:]!r}")
        return self.said

    def wait(self, *, seconds: float = 30) -> int:
        """The exit status; everything it printed is in `said` then."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        try:
            return self._popen.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise LabError(f"{self._shown} still runs after {seconds:g} s; {self.said[-500:]!r}") from None

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self._popen.pid, signal.SIGINT)

    def kill(self) -> None:
        """Ends it without a word, as a closed laptop does."""
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def _read(self, seconds: float) -> bool:
        """Whether something came within `seconds`; False at the end of its output too."""
        if not select.select([self._out], [], [], max(0.0, seconds))[0]:
            return False
        try:
            data = os.read(self._out, 1 << 16)
        except OSError:  # a pseudo-terminal whose other end is closed
            return False
        self.said += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
