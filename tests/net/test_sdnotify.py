"""What systemd hears, on a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from raven.net.sdnotify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def _environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


def test_messages(manager: socket.socket) -> None:
    notifier = Notifier(_environment(manager))
    notifier.ready("two\nlines")
    notifier.stopping()
    assert manager.recv(999) == b"READY=1\nSTATUS=two lines"
    assert manager.recv(999) == b"STOPPING=1\nSTATUS=draining"
    notifier.close()


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0raven-test-{os.getpid()}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@raven-test-{os.getpid()}"})
        notifier.status("x")
        assert sock.recv(999) == b"STATUS=x"
        notifier.close()


async def test_signs_of_life_at_half_the_interval(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    notifier = Notifier(_environment(manager, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())))
    assert notifier.watchdog_interval == 15.0
    with trio.move_on_after(40):
        await notifier.watchdog()
    assert [manager.recv(999) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        manager.recv(999)
    notifier.close()


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
async def test_no_watchdog_unless_it_is_for_us(manager: socket.socket, more: dict[str, str]) -> None:
    notifier = Notifier(_environment(manager, **more))
    await notifier.watchdog()
    notifier.close()


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        notifier = Notifier(environment)
        notifier.ready("x")
        notifier.close()
