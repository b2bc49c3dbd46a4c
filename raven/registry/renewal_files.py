"""A renewal on disk: the next key and certificate grow in `.renewing` and move up together.

The key is there before its request is sent, so that a repeated request is the same one. The moment node.crt
stands in `.renewing` the new pair counts, and whoever opens the directory next moves it up from wherever that
was interrupted. Everything here happens under the lock of the state directory. No `cryptography`.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from raven.errors import StateError
from raven.registry import files

_DIRECTORY = ".renewing"


def pending_key(directory: Path, make_key: Callable[[], bytes], is_key: Callable[[bytes], bool]) -> bytes:
    """The next key in PEM: the one an earlier attempt left, or a new one; on disk either way."""
    pending = directory / _DIRECTORY
    files.make_directory(pending)
    path = pending / "node.key"
    with contextlib.suppress(StateError):
        if is_key(key := files.read(path, secret=True)):
            return key
    key = make_key()
    files.write(path, key)
    return key


def finish_renewal(directory: Path) -> None:
    """Moves up what a renewal that counts has left; nothing happens when there is none."""
    pending = directory / _DIRECTORY
    if not (pending / "node.crt").exists():
        return
    try:
        for name in ("node.key", "node.crt"):
            with contextlib.suppress(FileNotFoundError):  # moved before the interruption
                (pending / name).replace(directory / name)
            files.sync_directory(directory)
        pending.rmdir()
    except OSError as error:
        raise files.failed(directory, "finish the renewal in this directory", error) from error


def install(directory: Path, certificate_pem: str) -> None:
    """Puts the certificate for `pending_key` in place, and the key with it; durable."""
    files.write(directory / _DIRECTORY / "node.crt", certificate_pem.encode())
    finish_renewal(directory)
