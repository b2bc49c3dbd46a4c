"""Control groups of a world: where a kubelet keeps its containers, in every hierarchy of the host.

Containers carry no mark of ours in their environment and live in namespaces of their own, so the group is how
they are found again. Version 1 has a hierarchy for each controller, version 2 a single one.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_UNIFIED = ("cpuset", "cpu", "io", "memory", "pids")  # what a kubelet wants of version 2


def make(name: str) -> None:
    """An empty group `name` at the top of every hierarchy."""
    if (ROOT / "cgroup.controllers").exists():
        offered = (ROOT / "cgroup.controllers").read_text().split()
        wanted = " ".join(f"+{controller}" for controller in _UNIFIED if controller in offered)
        (ROOT / "cgroup.subtree_control").write_text(wanted)
    for top in _tops():
        (top / name).mkdir(exist_ok=True)
        for limits in ("cpuset.cpus", "cpuset.mems"):
            # A new group of version 1 has no processors until it is given its parent's.
            if top != ROOT and (top / limits).exists():
                (top / name / limits).write_text((top / limits).read_text())


def found(prefix: str) -> list[Path]:
    """The groups at the top of each hierarchy whose names begin with `prefix`."""
    return sorted(group for top in _tops() for group in top.glob(f"{prefix}*"))


def processes(prefix: str) -> Iterator[int]:
    """Everything that runs in those groups or below."""
    for group in found(prefix):
        for members in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):  # gone meanwhile, or a group of threads
                yield from map(int, members.read_text().split())


def remove(prefix: str) -> None:
    """Removes the groups once nothing runs in them; what does stays, for `found` to tell."""
    for group in found(prefix):
        below = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
        for directory in (*below, group):
            with contextlib.suppress(OSError):
                directory.rmdir()


def _tops() -> list[Path]:
    """The top of every hierarchy that is mounted."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    if not ROOT.is_dir():
        return []
    return sorted(path for path in ROOT.iterdir() if path.is_dir() and (path / "cgroup.procs").exists())
