"""shared.json: marks a gateway's state directory as a copy of the registry in its Kubernetes cluster.

The gateway writes it before it serves; the commands that work on the directory read it, and then work on the
cluster. Without it the directory is the registry.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from raven.registry import files

SHARED_FILE = "shared.json"
_REMEDY = "Move it away; the gateway makes it again at its next start"


class SharedFile(msgspec.Struct, frozen=True, kw_only=True):
    """shared.json."""

    namespace: str  # where the registry's objects are
    kubeconfig: str = ""  # how to reach the API server; "" as a pod does
    imported: bool = False  # what the directory held before is in the cluster


def read_shared_file(directory: Path, *, now: float) -> SharedFile | None:
    """None where the directory is a registry of its own; StateError when the file is damaged."""
    path = directory / SHARED_FILE
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(files.read(path), type=SharedFile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise files.corrupt(path, str(error), _REMEDY, now=now) from error


def write_shared_file(directory: Path, content: SharedFile) -> None:
    files.write(directory / SHARED_FILE, msgspec.json.format(msgspec.json.encode(content)) + b"\n")


def drop_shared_file(directory: Path) -> None:
    """Called by a gateway that is to have a registry of its own."""
    try:
        (directory / SHARED_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise files.failed(directory / SHARED_FILE, "remove", error) from error
