import contextlib
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raven.errors import StateError
from raven.registry import database
from raven.registry.database import Database
from raven.registry.schema import APPLICATION_ID, STEPS
from tests.registry.disks import fill, small_disk

NOW = 1_800_000_000.0
ADD = (
    "INSERT INTO audit (time, event, node, asker, target, verdict, detail) VALUES (1, ?, '', '', '', '', '')"
)


def events(opened: Database) -> list[str]:
    return [row["event"] for row in opened.read("SELECT event FROM audit ORDER BY id")]


def add(opened: Database, *values: object) -> None:
    with opened.transaction(durable=True) as connection:
        connection.executemany(ADD, [(value,) for value in values])


def test_a_new_file_is_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    with contextlib.closing(Database(path, now=NOW)) as opened:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert opened.read("PRAGMA user_version")[0][0] == len(STEPS)
        assert opened.read("PRAGMA application_id")[0][0] == APPLICATION_ID
        assert opened.read("PRAGMA journal_mode")[0][0] == "wal"
        with opened.transaction(durable=True) as connection:
            connection.execute(ADD, ("join",))
            assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        with opened.transaction(durable=False) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone()[0] == 1  # NORMAL
        for name in ("registry.sqlite-wal", "registry.sqlite-shm"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["registry.sqlite"]
    with contextlib.closing(Database(path, now=NOW, create=False)) as opened:
        assert events(opened) == ["join"]


def test_tables_take_nothing_of_the_wrong_type(tmp_path: Path) -> None:
    with contextlib.closing(Database(tmp_path / "r", now=NOW)) as opened:
        tables = opened.read("SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict")
        assert {row["name"] for row in tables} == {"sqlite_schema", "sqlite_sequence"}
        with pytest.raises(StateError, match="cannot store BLOB value"):
            add(opened, b"\xff")


def test_only_the_gateway_makes_a_registry(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=f"{tmp_path}/r: there is no registry here"):
        Database(tmp_path / "r", now=NOW, create=False)
    assert not any(tmp_path.iterdir())
    with pytest.raises(StateError, match="r: cannot make the registry: No such file"):
        Database(tmp_path / "none" / "r", now=NOW)


def test_an_exception_takes_everything_back(tmp_path: Path) -> None:
    with contextlib.closing(Database(tmp_path / "r", now=NOW)) as opened:

        def fail() -> None:
            with opened.transaction(durable=True) as connection:
                connection.execute(ADD, ("lost",))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        add(opened, "kept")
        assert events(opened) == ["kept"]


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    with contextlib.closing(Database(tmp_path / "r", now=NOW)) as opened:
        with opened.transaction(durable=True) as connection:
            connection.execute(ADD, ("new",))
            assert events(opened) == []
        assert events(opened) == ["new"]


def test_threads_take_turns(tmp_path: Path) -> None:
    with contextlib.closing(Database(tmp_path / "r", now=NOW)) as opened:

        def work(name: str) -> None:
            for _ in range(20):
                add(opened, name)
                opened.read("SELECT count(*) FROM audit")

        threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(events(opened)) == 80


def test_a_process_that_keeps_the_file_locked_is_waited_for_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.05)
    with (
        contextlib.closing(Database(tmp_path / "r", now=NOW)) as one,
        contextlib.closing(Database(tmp_path / "r", now=NOW)) as other,
        one.transaction(durable=False),
        pytest.raises(StateError, match="r: another process keeps it locked"),
        other.transaction(durable=False),
    ):
        pass


def test_processes_that_open_a_new_registry_at_once_share_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from raven.registry.database import Database\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "opened = Database(pathlib.Path(sys.argv[1]), now=0)\n"
        f"with opened.transaction(durable=True) as connection: connection.execute({ADD!r}, ('x',))\n"
    )
    path = tmp_path / "r"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=20)
        assert process.returncode == 0
    with contextlib.closing(Database(path, now=NOW)) as opened:
        assert events(opened) == ["x"] * 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["r"]


def scribble_over_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 8192)


def scribble_over_all(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 500)


def cut_to_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_another_programs(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE moz_places (url TEXT)")


@pytest.mark.parametrize(
    "damage", [scribble_over_pages, scribble_over_all, cut_to_half, empty, replace_by_another_programs]
)
def test_a_damaged_file_is_named_kept_and_refused_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "registry.sqlite"
    Database(path, now=NOW).close()
    damage(path)
    damaged = path.read_bytes()
    for later in (0, 5):
        with pytest.raises(
            StateError, match=r"registry.sqlite: .*A copy is kept as registry.sqlite.corrupt-2027"
        ):
            Database(path, now=NOW + later)
    assert path.read_bytes() == damaged
    copies = list(tmp_path.glob("*.corrupt-*"))
    assert [copy.read_bytes() for copy in copies] == [damaged]


def test_a_registry_of_a_newer_raven_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "r"
    Database(path, now=NOW).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    with pytest.raises(StateError, match="written by a newer Raven"):
        Database(path, now=NOW)
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_a_registry_restored_from_a_dump_becomes_wal_again(tmp_path: Path) -> None:
    path = tmp_path / "r"
    Database(path, now=NOW).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    with contextlib.closing(Database(path, now=NOW)) as opened:
        assert opened.read("PRAGMA journal_mode")[0][0] == "wal"


@pytest.mark.netns
def test_a_full_disk_is_one_error_and_reads_go_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with contextlib.closing(Database(disk / "r", now=NOW)) as opened:
            add(opened, "before")
            ballast = fill(disk)
            with pytest.raises(StateError, match=r"disk/r: the disk is full"):
                add(opened, *["x" * 1000] * 1000)
            assert events(opened) == ["before"]
            ballast.unlink()
            add(opened, "after")
            assert events(opened) == ["before", "after"]
        ballast = fill(disk)
        with pytest.raises(StateError, match="disk/new"):
            Database(disk / "new", now=NOW)
        assert {path.name for path in disk.iterdir()} == {"r", "ballast"}
