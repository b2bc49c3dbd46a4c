"""Signals and exit codes."""

import os
import signal

import pytest
import trio

from raven.errors import ConfigError, StateError
from raven.net.daemon import Stop, exit_code, supervise
from raven.net.sdnotify import Notifier


async def test_the_first_signal_asks_and_the_second_ends() -> None:
    reached: list[str] = []

    async def serve(stop: Stop) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
            reached.append("draining")
            os.kill(os.getpid(), signal.SIGTERM)
            await trio.sleep_forever()
        finally:
            reached.append("cleaned up")

    with trio.fail_after(5):
        await supervise(serve, Notifier({}))
    assert reached == ["draining", "cleaned up"]


async def test_ctrl_c_asks_as_well() -> None:
    async def serve(stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()

    with trio.fail_after(5):
        await supervise(serve, Notifier({}))


def test_exit_codes() -> None:
    usage, state = ConfigError("--x: wrong"), StateError("f: corrupt")
    assert exit_code(usage) == (2, "--x: wrong")
    assert exit_code(state) == (1, "f: corrupt")
    assert exit_code(ExceptionGroup("g", [ExceptionGroup("g", [usage])])) == (2, "--x: wrong")
    assert exit_code(ExceptionGroup("g", [usage, state, usage])) == (1, "--x: wrong\nf: corrupt")
    assert exit_code(KeyboardInterrupt()) == (1, "interrupted")
    with pytest.raises(ExceptionGroup):
        exit_code(ExceptionGroup("g", [usage, ValueError("a bug")]))
