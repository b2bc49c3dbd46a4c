"""Paths that a program shall see differently from the host: a mount namespace of its own, gone with it."""

from collections.abc import Mapping
from pathlib import Path

# sh -c SCRIPT NAME PATH SOURCE PATH SOURCE ... -- COMMAND...
_SCRIPT = """while [ "$1" != -- ]; do mount -n --bind "$2" "$1" || exit 1; shift 2; done; shift; exec "$@\""""


def seeing(paths: Mapping[str, Path], *command: str) -> tuple[str, ...]:
    """`command` with each of the files or directories `paths` mounted over its key."""
    pairs = [word for path, source in paths.items() for word in (path, str(source))]
    shell = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, "seeing")
    return (*shell, *pairs, "--", *command)
