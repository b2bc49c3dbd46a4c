"""Files that must survive a power cut: written whole or not at all, read with the file's name in every error.

Used by everything that keeps state on disk. It never deletes or overwrites what it could not understand.
"""

import contextlib
import fcntl
import filecmp
import os
import shutil
import stat
import time
from pathlib import Path

from raven.errors import StateError

SECRET_MODE = 0o600  # keys, and everything else here: nothing in a state directory is for other users
DIRECTORY_MODE = 0o700
FILE_MAX = 1 << 20  # bytes; the largest file kept here is a certificate chain of some KiB


class Lock:
    """Holds a directory for one process until `release`; the kernel releases it when the process dies."""

    def __init__(self, directory: Path, holder: str) -> None:
        """StateError with the name and process id of the `holder` there is, when there is one."""
        path = directory / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, SECRET_MODE)
        except OSError as error:
            raise failed(path, "open", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            other = os.pread(descriptor, 80, 0).decode("ascii", "replace").strip() or "another process"
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise failed(path, "lock", error) from error
            raise StateError(f"{directory}: in use by {other}") from error
        with contextlib.suppress(
            OSError
        ):  # only the message above needs it, and a full disk must not stop us
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{holder} (process {os.getpid()})\n".encode(), 0)
        self._descriptor: int | None = descriptor

    def fileno(self) -> int:
        """For a child process that shall hold the directory as well, until it ends."""
        assert self._descriptor is not None, "the lock was released"
        return self._descriptor

    def release(self) -> None:
        """May be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def make_directory(path: Path) -> None:
    """`path` exists afterwards and belongs to one user alone.

    An existing directory is only tightened while it is empty: it may be /tmp by mistake. One that others may
    write to is refused, because they could replace what is in it. StateError otherwise.
    """
    try:
        path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077 and not any(path.iterdir()):
            path.chmod(DIRECTORY_MODE)
        elif mode & 0o022:
            raise StateError(
                f"{path}: others may write to this directory (mode {mode:o}); use one of its own, mode 700"
            )
    except OSError as error:
        raise failed(path, "make this directory", error) from error


def make_subdirectory(path: Path) -> None:
    """`make_directory`, of whose directory this one is in: what root leaves there its daemon has to read."""
    make_directory(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _give_to_owner(path.parent, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failed(path, "make this directory", error) from error


def _give_to_owner(directory: Path, descriptor: int) -> None:
    """What root has made in `directory` is its owner's."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def read(path: Path, *, secret: bool = False) -> bytes:
    """The content of `path`; StateError when it is missing, unreadable, too large, or a secret others may
    read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(FILE_MAX + 1)
    except OSError as error:
        raise failed(path, "read", error) from error
    if len(data) > FILE_MAX:
        raise StateError(f"{path}: larger than {FILE_MAX} bytes; this is not a file of Raven")
    if secret and status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise StateError(f"{path}: a private key that others may read (mode {mode:o}); chmod 600 {path}")
    return data


def write(path: Path, data: bytes) -> None:
    """Puts `data` at `path` so that every reader, and every restart, finds all of the old or all of the
    new. By root it becomes the file of whose directory it is in.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, SECRET_MODE
            )
            with open(descriptor, "wb") as file:
                _give_to_owner(path.parent, descriptor)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise failed(path, "write", error) from error


def sync_directory(path: Path) -> None:
    """Makes renames and removals inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def failed(path: Path, verb: str, error: OSError) -> StateError:
    """The error to raise when the system refused to `verb` the file."""
    return StateError(f"{path}: cannot {verb}: {error.strerror or error}")


def corrupt(path: Path, problem: str, remedy: str, *, now: float) -> StateError:
    """The error to raise for a file that cannot be what it should; a copy of it is kept first.

    The original stays where it is, so that the next start refuses as well; copies do not multiply
    when a supervisor keeps trying.
    """
    kept = _keep_copy(path, now)
    return StateError(f"{path}: {problem}. {kept}. {remedy}")


def _keep_copy(path: Path, now: float) -> str:
    try:
        for earlier in path.parent.glob(f"{path.name}.corrupt-*"):
            if filecmp.cmp(path, earlier, shallow=False):
                return f"A copy is kept as {earlier.name}"
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        copy = path.with_name(f"{path.name}.corrupt-{stamp}")
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, SECRET_MODE)
        with open(descriptor, "wb") as target, path.open("rb") as source:
            shutil.copyfileobj(source, target)
        return f"A copy is kept as {copy.name}"
    except OSError as error:
        return f"A copy could not be kept: {error.strerror or error}"
