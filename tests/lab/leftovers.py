"""What a world leaves on the host, and its removal: by a look at the host, not by what the world remembers.

So the same code ends a world in order, checks that nothing stayed, and clears up after one that crashed.
A world is known by its prefix `rvn<4 hex>-`, or `rvk` where it is bare WireGuard devices: namespaces, links,
files, control groups and processes all carry it.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.lab import cgroups
from tests.lab.errors import LabError
from tests.lab.machine import NETNS
from tests.lab.waiting import wait_until

PREFIX = re.compile(r"rv[nk][0-9a-f]{4}-")
WIREGUARD = Path("/var/run/wireguard")


def directory_of(prefix: str) -> Path:
    """Where the world `prefix` keeps its state, logs and keys."""
    return Path(tempfile.gettempdir(), f"{prefix}lab")


def crashed() -> list[str]:
    """Prefixes of worlds whose builder no longer runs."""
    prefixes = []
    for directory in sorted(Path(tempfile.gettempdir()).glob("rv[nk]*-lab")):
        prefix = directory.name.removesuffix("lab")
        if PREFIX.fullmatch(prefix) and directory.stat().st_uid == os.getuid():
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((directory / "owner").read_text()), 0)
                continue
            prefixes.append(prefix)
    return prefixes


def namespaces(prefix: str) -> list[str]:
    return sorted(path.name for path in NETNS.glob(f"{prefix}*"))


def links(prefix: str) -> list[str]:
    """Links of the host's own namespace that carry the prefix."""
    return sorted(path.name for path in Path("/sys/class/net").glob(f"{prefix}*"))


def sockets(prefix: str) -> list[Path]:
    return sorted(WIREGUARD.glob(f"{prefix}*")) if WIREGUARD.is_dir() else []


def processes(prefix: str) -> list[int]:
    """Processes of the world: in its namespaces or groups, or marked by their environment as descendants."""
    inside = {os.stat(NETNS / name).st_ino for name in namespaces(prefix)}
    mark = f"RAVEN_LAB={prefix}".encode()
    pids = set(cgroups.processes(prefix))
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile
                if (path / "ns/net").stat().st_ino in inside or mark in (path / "environ").read_bytes().split(
                    b"\0"
                ):
                    pids.add(int(path.name))
    return sorted(pids)


def found(prefix: str) -> list[str]:
    """One line for each thing of the world that is on the host."""
    lines = [f"namespace {name}" for name in namespaces(prefix)]
    lines += [f"link {name}" for name in links(prefix)]
    lines += [f"socket {path}" for path in sockets(prefix)]
    lines += [f"control group {path}" for path in cgroups.found(prefix)]
    lines += [f"process {pid}: {_command_line(pid)}" for pid in processes(prefix)]
    directory = directory_of(prefix)
    if directory.exists():
        lines.append(f"directory {directory}")
    return lines


def remove(prefix: str) -> None:
    """Removes the world `prefix` from the host; LabError names what could not be removed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes(prefix):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(LabError):
            wait_until(lambda: not processes(prefix), what="processes to end", seconds=5)
            break
    for name in namespaces(prefix):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    for name in links(prefix):
        subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)
    for path in sockets(prefix):
        path.unlink(missing_ok=True)
    cgroups.remove(prefix)
    shutil.rmtree(directory_of(prefix), ignore_errors=True)
    if left := found(prefix):
        raise LabError("left behind: " + "; ".join(left))


def remove_empty(directory: Path) -> None:
    """Removes a directory that the world's programs made on their way, unless somebody else uses it."""
    with contextlib.suppress(OSError):
        if not any(directory.iterdir()):
            # `ip netns add` mounts its directory on itself; where nothing is mounted, this fails, and may.
            subprocess.run(["umount", "-n", directory], capture_output=True, check=False)
            directory.rmdir()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"
