"""One SQLite file used from many threads and processes: made, checked, migrated, its errors in our words.

WAL, with one connection that writes and one that reads, each behind a lock: readers never wait for a
writer's fsync. A durable transaction commits under synchronous=FULL, because a token that came back to life
after a power cut would be worth two nodes; the rest under NORMAL, which can lose the last transactions and
never the file.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raven.errors import StateError
from raven.registry import files
from raven.registry.schema import APPLICATION_ID, STEPS

BUSY_TIMEOUT = 5.0  # seconds to wait for another process's write; `token create` needs milliseconds

# Primary result codes, https://sqlite.org/rescode.html; an extended code carries its primary in the low byte.
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REMEDY = "Restore it from a backup, or move it away: then every node has to join again"


class Database:
    """The connections to one file."""

    def __init__(self, path: Path, *, now: float, create: bool = True) -> None:
        """Opens `path`, makes it where `create`; StateError when it is not a sound database of ours."""
        self.path = path
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        with contextlib.ExitStack() as undo:
            try:
                if not path.exists():
                    if not create:
                        raise StateError(f"{path}: there is no registry here; `raven-gateway run` makes it")
                    _make(path)
                self._writer = undo.enter_context(contextlib.closing(_connect(path)))
                _check(path, self._writer)
                _use_wal(path, self._writer)  # a database restored from a dump is not
                if _version(self._writer) < len(STEPS):
                    with self.transaction(durable=True) as connection:
                        _migrate(connection)
                self._reader = undo.enter_context(contextlib.closing(_connect(path)))
                self._reader.execute("PRAGMA query_only = ON")
            except OSError as error:
                raise files.failed(path, "make the registry", error) from error
            except _DamagedError as error:
                raise files.corrupt(path, str(error), _REMEDY, now=now) from error
            except sqlite3.Error as error:
                if _code(error) in _CORRUPT:
                    raise files.corrupt(path, f"not a sound database ({error})", _REMEDY, now=now) from error
                raise _failed(path, error) from error
            undo.pop_all()

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows; StateError when the store fails."""
        try:
            with self._read_lock:
                return self._reader.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error

    @contextlib.contextmanager
    def transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """All the writes of the block or none; the block is alone in the file, across processes.

        An exception of the block rolls back and passes through; StateError when the store fails.
        """
        with self._write_lock:
            try:
                self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):  # of a connection that was closed meanwhile
                    if self._writer.in_transaction:  # SQLite rolls back by itself on some failures
                        self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise _failed(self.path, error) from error
                raise

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()


class _DamagedError(Exception):
    """The file is not what it should be."""


def _connect(path: Path) -> sqlite3.Connection:
    # Made by one thread and used by others, one at a time: the locks see to it.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _make(path: Path) -> None:
    """A new database appears at `path` whole, so that an empty or partial file there is always damage."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, files.SECRET_MODE))
        with contextlib.closing(_connect(temporary)) as connection:
            _use_wal(path, connection)
            connection.execute("BEGIN IMMEDIATE")
            _migrate(connection)
            connection.execute("COMMIT")
        with contextlib.suppress(FileExistsError):  # another process was faster: its file is as good
            path.hardlink_to(temporary)
        files.sync_directory(path.parent)
    finally:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                temporary.with_name(temporary.name + suffix).unlink()


def _use_wal(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StateError(f"{path}: this file system cannot hold a database in WAL mode")


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Nothing happens when the file is a sound registry; else _DamagedError, StateError or sqlite3.Error."""
    if path.stat().st_size == 0:
        raise _DamagedError("the file is empty")
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _DamagedError(f"not a sound database ({verdict.splitlines()[-1]})")
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise _DamagedError("a database of another program")
    if (version := _version(connection)) > len(STEPS):
        raise StateError(f"{path}: written by a newer Raven (schema {version}, this one knows {len(STEPS)})")


def _migrate(connection: sqlite3.Connection) -> None:
    # Asks for the version again inside the transaction: another process may have been here.
    for number in range(_version(connection), len(STEPS)):
        for statement in STEPS[number].split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number + 1}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _failed(path: Path, error: sqlite3.Error) -> StateError:
    sentence = {
        sqlite3.SQLITE_FULL: "the disk is full",
        sqlite3.SQLITE_IOERR: f"{error}; is the disk full or failing?",
        sqlite3.SQLITE_BUSY: f"another process keeps it locked for more than {BUSY_TIMEOUT:.0f} s",
        sqlite3.SQLITE_READONLY: "it cannot be written to",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    }.get(_code(error), str(error))
    return StateError(f"{path}: {sentence}")
