"""A program at the other end of ssh that answers line by line, as somebody uses it who types."""

import contextlib
import select
import subprocess
from typing import Self

from tests.lab.errors import LabError
from tests.lab.machine import Machine


class Shell:
    """Runs `command` in the machine while the block lasts; LabError if it then ends badly."""

    def __init__(self, machine: Machine, *command: str) -> None:
        self._process = subprocess.Popen(
            machine.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=machine.env
        )

    def ask(self, line: str, *, seconds: float) -> str:
        """The line that comes back; LabError when none does within `seconds`."""
        assert self._process.stdin
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return self.hear(seconds=seconds)

    def hear(self, *, seconds: float) -> str:
        """The next line it says by itself; each is read before the next is asked for."""
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            raise LabError(f"the shell has not answered within {seconds:g} s")
        if not (line := self._process.stdout.readline()):
            raise LabError("the shell has ended")
        return line.decode(errors="replace").rstrip("\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            if kind is None and (code := self._process.wait(15)):
                raise LabError(f"the shell ended with {code}")
        except subprocess.TimeoutExpired:
            raise LabError("the shell did not end with its input") from None
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
