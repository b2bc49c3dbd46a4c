"""What a service tells systemd: ready, stopping, a line of status, and that it is still alive.

The protocol of sd_notify(3): newline-separated assignments in one datagram to the Unix socket that
NOTIFY_SOCKET names. Without that variable everything here does nothing; a lost datagram fails nobody.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

import trio


class Notifier:
    """The way to the service manager; `environment` is os.environ outside tests."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        self.watchdog_interval = _watchdog_interval(environment)  # seconds between two signs of life, or None

    def ready(self, status: str) -> None:
        """Start-up is over: units that wait for this one may start."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=draining")

    async def watchdog(self) -> None:
        """Signs of life at half the interval that systemd demands, for as long as trio's loop runs tasks.

        A loop that hangs sends none, and systemd restarts the service. Returns at once where none is asked.
        """
        if self.watchdog_interval is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_interval)

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # the manager is busy or gone: it is not told, and we go on
            self._socket.sendto(text.encode(), self._address)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    # WATCHDOG_PID guards against a child that inherited the environment (sd_watchdog_enabled(3)).
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6 / 2


def _line(text: str) -> str:
    return " ".join(text.split())
