"""`raven-wg [-f] IFACE`: a complete userspace WireGuard device, usable alone, like `wireguard-go IFACE`.

Opens the link and its Unix socket, then hands both to the engine. Without -f it goes to the background once
the socket answers. It ends when the link or the socket file is deleted, or on SIGTERM or SIGINT, and leaves
neither behind.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from raven import __version__
from raven.dataplane import privileges
from raven.errors import RavenError
from raven.net.allocator import keep_freed

log = logging.getLogger("raven")

_MTU: Final = 1420  # bytes; an outer IPv6 header, UDP and WireGuard's 32 fit 1500 with that
_SOCKET_CHECK: Final = 1.0  # seconds between looks whether the socket file is still there
_KEPT: Final = 4 << 20  # bytes of free memory that the process keeps at most
_LATE: Final = ("numpy", "raven.ip.gso", "raven.ip.gro", "raven.wg.fragments")
_LEVELS: Final = {"verbose": logging.DEBUG, "debug": logging.DEBUG, "error": logging.ERROR, "silent": 100}


class _TryOffloads(argparse.Action):
    """Like --version, an option that does all there is to do, and ends."""

    def __call__(self, *_: object) -> None:
        from raven.dataplane.trial import leave_result

        sys.exit(f"raven-wg: {why}" if (why := leave_result()) else 0)


def main() -> None:
    """The console script. Exit status 1, and one line on standard error, when the device cannot be made."""
    parser = argparse.ArgumentParser(prog="raven-wg", description="A userspace WireGuard device.")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("--version", action="version", version=f"raven-wg {__version__}")
    what = "try out what the kernel does for TUN devices, leave the result for services that may not, and end"
    parser.add_argument("--try-offloads", action=_TryOffloads, nargs=0, help=what)
    parser.add_argument("interface", metavar="IFACE", help="name of the interface to create")
    options = parser.parse_args()
    level = os.environ.get("LOG_LEVEL") or "error"
    if level not in _LEVELS:
        # As wireguard-go: a word of some other program's is no reason to be without a device.
        sys.stderr.write(f"raven-wg: LOG_LEVEL={level!r} is taken for error; known: {', '.join(_LEVELS)}\n")
        level = "error"
    logging.basicConfig(level=_LEVELS[level], format="%(levelname)s: %(message)s")
    if options.foreground:
        sys.exit(run(options.interface, lambda: None))
    sys.exit(_in_background(options.interface))


def run(name: str, ready: Callable[[], None]) -> int:
    """Runs the device until it ends; the exit status. Calls `ready` once its socket answers."""
    import uvloop  # here, so that a wrong option does not wait for it

    try:
        uvloop.run(_serve(name, ready))
    except RavenError as error:
        sys.stderr.write(f"raven-wg: {error}\n")
        return 1
    return 0


async def _serve(name: str, ready: Callable[[], None]) -> None:
    # One thread: numpy's own would never be used, and would keep the privileges this one gives up.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from raven.dataplane.ciphers import superframe_ciphers
    from raven.dataplane.engine import Engine
    from raven.dataplane.offloads import TUN_TRIAL, UDP_TRIAL, Offloads, try_udp
    from raven.dataplane.routes import path_mtu
    from raven.dataplane.trial import tried_tun
    from raven.dataplane.tun import Tun
    from raven.dataplane.uapi import UapiServer
    from raven.wg.device import Device
    from raven.wg.messages import tai64n

    _keep_memory()
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def ended(message: str) -> None:
        if not end.done():
            if message:
                end.set_exception(RavenError(message))
            else:
                end.set_result(None)

    with contextlib.ExitStack() as stack:
        tun = Tun(name, mtu=_MTU)
        of_tun, of_udp = tried_tun(), try_udp()
        stack.callback(tun.close)
        device = Device(
            tai64n=lambda: tai64n(*divmod(time.time_ns(), 10**9)),
            random=secrets.token_bytes,
            wall=time.time,
            route_mtu=lambda endpoint: path_mtu(endpoint, device.fwmark),
            mtu=_MTU,
            superframe_ciphers=superframe_ciphers(),
        )
        offloads = Offloads(
            of_tun.failures | of_udp.failures, untried={TUN_TRIAL: of_tun.untried, UDP_TRIAL: of_udp.untried}
        )
        engine = Engine(loop, tun, device, ended, offloads)
        stack.callback(engine.stop)
        server = UapiServer(name, engine)
        stack.callback(server.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended, "")
        loop.set_exception_handler(lambda _, context: ended(_crash(context)))
        _import_what_may_be_unreadable_later()
        privileges.drop()
        engine.start()
        await server.start()
        ready()
        log.info("%s: ready", name)
        while not end.done():
            await asyncio.wait((end,), timeout=_SOCKET_CHECK)
            if not server.exists():
                ended("")
        end.result()


def _import_what_may_be_unreadable_later() -> None:
    """Loads what the first burst would, where only root's powers can read it: a virtual environment at home.

    Elsewhere a device that meets no burst stays 12 MB smaller.
    """
    for name in _LATE:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or not privileges.can_read_without(Path(spec.origin)):
            importlib.import_module(name)


def _keep_memory() -> None:
    """Stops the C library from giving memory back after each burst, only to fetch it anew for the next.

    glibc does so from 128 KiB on, and the matrix of four joined bursts has 256: half a page fault a packet.
    """
    keep_freed(below=_KEPT, at_end=_KEPT)


def _crash(context: dict[str, object]) -> str:
    """What to say of an exception in a callback. It is a mistake of ours, and the state after it is unknown:
    the process ends, and whoever supervises it starts another."""
    error = context.get("exception")
    log.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
    return f"internal error: {error!r}"


def _in_background(name: str) -> int:
    """Runs the device in a child that leaves the terminal; returns when it is ready (0) or has failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with open(reading, "rb") as pipe:
            if pipe.read() == b"ready":
                return 0
        os.waitpid(child, 0)
        return 1
    os.close(reading)
    os.setsid()
    os.chdir("/")

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        os.write(writing, b"ready")
        os.close(writing)

    return run(name, ready)
