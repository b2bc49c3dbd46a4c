"""The life of a daemon between its first line and its exit code: signals, systemd, and one readable error.

SIGTERM or SIGINT asks for a drain, a second one ends at once, cleaning up but waiting for nobody; SIGHUP
makes it look at its files again. What a daemon does meanwhile is its own matter; it gets a `Stop` to look at.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from raven.errors import ConfigError, RavenError
from raven.net.allocator import keep_freed
from raven.net.sdnotify import Notifier
from raven.terminal import printable

_MMAP_MIN = 1 << 20  # bytes; above what streams read and write at once
_KEPT_MAX = 4 << 20  # bytes free at the end of the heap; some reads and flushes

EXIT_OK = 0
EXIT_FAILED = 1  # something failed that a restart may mend
EXIT_USAGE = 2  # a flag, a key or an address has to be changed first; systemd does not restart on it


class Stop:
    """Whether the daemon was asked to end."""

    def __init__(self) -> None:
        self._asked = trio.Event()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        self._asked.set()

    async def wait(self) -> None:
        await self._asked.wait()


async def supervise(
    serve: Callable[[Stop], Awaitable[None]],
    notifier: Notifier,
    *,
    reload: Callable[[], None] = lambda: None,
) -> None:
    """Runs `serve` to its end under the signals and the watchdog.

    `serve` returns after `Stop` was asked and its drain is done; the second signal cancels it. `reload` is
    called at SIGHUP, which never ends a daemon.
    """
    _raise_open_files()
    _keep_freed_memory()
    # What the imports made lives as long as we do. The collector need not walk it again and again: 10 ms, in
    # which every keystroke would wait.
    gc.collect()
    gc.freeze()
    stop = Stop()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                async for number in signals:
                    if number == signal.SIGHUP:
                        reload()
                    elif not stop.asked:
                        notifier.stopping()
                        stop.ask()
                    else:
                        nursery.cancel_scope.cancel()

            nursery.start_soon(obey)
            nursery.start_soon(notifier.watchdog)
            await serve(stop)
            nursery.cancel_scope.cancel()


def _raise_open_files() -> None:
    """As many descriptors as the system lets us have: each agent and each stream is one; 1,024 are few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _keep_freed_memory() -> None:
    """glibc would give each large buffer back to the kernel and fault it in anew: of a gigabyte that passes,
    a third of the pages (a tenth of the CPU time in the kernel).
    """
    keep_freed(below=_MMAP_MIN, at_end=_KEPT_MAX)


def exit_code(error: BaseException) -> tuple[int, str]:
    """The exit code and the lines for the operator, for whatever ended a daemon.

    Errors that Raven raises on purpose are shown as they are; anything else is a bug and raised again.
    """
    found = list(_leaves(error))
    if any(not isinstance(leaf, RavenError | KeyboardInterrupt) for leaf in found):
        raise error
    lines = dict.fromkeys(str(leaf) for leaf in found if not isinstance(leaf, KeyboardInterrupt))
    if not lines:
        return EXIT_FAILED, "interrupted"
    code = EXIT_USAGE if all(isinstance(leaf, ConfigError) for leaf in found) else EXIT_FAILED
    return code, "\n".join(lines)


def fail(program: str, error: BaseException) -> NoReturn:
    """Ends the program with the error's exit code and its lines on standard error; a bug is raised again."""
    code, message = exit_code(error)
    for line in message.splitlines():
        sys.stderr.write(f"{program}: {printable(line)}\n")
    sys.exit(code)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
