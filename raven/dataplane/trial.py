"""Tries the kernel's TUN offloads out before they are used, on a device of its own in a network of its own.

A child of this process makes a network namespace with one TUN device, talks through it (`trial_traffic`) and
ends, and both go with it: the host's links, addresses, routes and firewall are neither used nor touched.

A service that may make no namespace has it done before (`raven-wg --try-offloads`) and takes the result from
a file: what the kernel does stays the same until the next boot. Without either nothing is tried, and the
status says so.
"""

import ctypes
import json
import os
import select
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from raven.dataplane.offloads import TUN_NAMES, Trial
from raven.dataplane.trial_traffic import try_traffic
from raven.dataplane.tun import Tun
from raven.errors import RavenError

_PATIENCE: Final = 3.0  # seconds; 30 ms are usual, and a device must start on a busy machine too
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # <sched.h>
_NAME: Final = "trial"
_MTU: Final = 1420
_ANSWER_MAX: Final = 65536  # bytes
RESULT: Final = Path("/run/wireguard/raven-trial.json")  # beside the devices' sockets, which root alone makes
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_WHY_MAX: Final = 200  # characters


def try_tun(attempt: Callable[[], dict[str, str]] | None = None) -> Trial:
    """Runs the trial in a child and waits for it. `attempt` takes its place, for tests.

    Call while this process has one thread: a child has no others, nor the locks they hold.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            os.write(writing, json.dumps(_in_child(attempt or _attempt)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        answer = _read(reading, time.monotonic() + _PATIENCE)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # it has nothing left to do
        os.waitpid(child, 0)
    if answer is None:
        return Trial({}, f"not tried out: no result within {_PATIENCE:g} s")
    failures, untried = json.loads(answer or b'[{}, "not tried out: the trial broke off"]')
    return Trial(failures, untried)


def tried_tun(path: Path = RESULT, attempt: Callable[[], dict[str, str]] | None = None) -> Trial:
    """`try_tun`, or where there can be no trial, what `leave_result` left of an earlier one."""
    trial = try_tun(attempt)
    if trial.untried and (failures := _left(path)) is not None:
        return Trial(failures, "")
    return trial


def leave_result(path: Path = RESULT, attempt: Callable[[], dict[str, str]] | None = None) -> str:
    """Tries, and leaves the result for those who may not; "" or why there is none. Once a boot is enough."""
    if _left(path) is not None:
        return ""
    trial = try_tun(attempt)
    if trial.untried:
        return trial.untried
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps({"boot": _BOOT_ID.read_text(), "failures": trial.failures}))
        fresh.chmod(0o644)
        fresh.replace(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def _left(path: Path) -> dict[str, str] | None:
    """The failures in the file; None unless root alone could write it, and that in this boot."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
            status = os.fstat(file.fileno())
            if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            found = json.loads(file.read(_ANSWER_MAX))
        if found["boot"] != _BOOT_ID.read_text():
            return None
        return {name: str(why)[:_WHY_MAX] for name, why in found["failures"].items() if name in TUN_NAMES}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _read(descriptor: int, deadline: float) -> bytes | None:
    """All until the other end is closed; None when that does not happen in time."""
    answer = b""
    while len(answer) < _ANSWER_MAX:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        more = os.read(descriptor, _ANSWER_MAX)
        if not more:
            break
        answer += more
    return answer


def _in_child(attempt: Callable[[], dict[str, str]]) -> Trial:
    try:
        return Trial(attempt(), "")
    except (OSError, RavenError) as error:
        return Trial({}, f"not tried out: {error}")


def _attempt() -> dict[str, str]:
    libc = ctypes.CDLL(None, use_errno=True)
    # As root, or else as root of a user namespace: either gives a network of one's own.
    if libc.unshare(_CLONE_NEWNET) and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise RavenError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    tun = Tun(_NAME, mtu=_MTU)
    try:
        return try_traffic(tun)
    finally:
        tun.close()
