"""The audit's hash chain: whatever is done to the file behind our back breaks it."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raven.registry import audit_log
from raven.registry.database import Database
from raven.registry.interface import AuditHead, AuditRecord
from raven.registry.schema import APPLICATION_ID, STEPS
from raven.registry.sqlite import SqliteRegistry

NOW = 1_800_000_000.0


def line(number: int, **given: Any) -> AuditRecord:
    fields: dict[str, Any] = {
        "event": "http",
        "node": "shop-1",
        "asker": "b",
        "target": f"t{number}",
        "verdict": "allowed",
    }
    return AuditRecord(time=NOW + number / 7, **{**fields, **given})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Iterator[SqliteRegistry]:
    with contextlib.closing(SqliteRegistry(path, now=NOW)) as opened:
        yield opened


def tamper(path: Path, statement: str, *parameters: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, parameters)


def test_an_empty_audit_holds(registry: SqliteRegistry) -> None:
    verdict = registry.verify_audit()
    assert verdict == audit_log.AuditVerdict(0, AuditHead(0, "00" * 32))
    assert verdict.head == registry.audit_head()


def test_lines_hang_together_over_batches_and_processes(registry: SqliteRegistry, path: Path) -> None:
    for first in range(0, 40, 8):
        registry.append_audit([line(number) for number in range(first, first + 8)])
    with contextlib.closing(SqliteRegistry(path, now=NOW)) as other:
        other.append_audit([line(40, target="ü\0\n" + "x" * 10_000, detail="näh")])
    registry.append_audit([])
    verdict = registry.verify_audit()
    assert (verdict.lines, verdict.problem) == (41, "")
    assert verdict.head == registry.audit_head()
    assert verdict.head.line == 41


@pytest.mark.parametrize("prunes", [10, 3])
def test_pruning_keeps_an_anchor(
    registry: SqliteRegistry, monkeypatch: pytest.MonkeyPatch, path: Path, prunes: int
) -> None:
    monkeypatch.setattr(audit_log, "AUDIT_MAX", prunes)
    for number in range(25):
        registry.append_audit([line(number)] * (number % 4))
    verdict = registry.verify_audit()
    assert (verdict.lines, verdict.problem) == (prunes, "")
    oldest = verdict.head.line - prunes + 1
    tamper(path, "DELETE FROM audit WHERE id = ?", oldest)
    assert registry.verify_audit().problem == f"lines {oldest} to {oldest} are missing"


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE audit SET verdict = 'forbidden' WHERE id = 4", "line 4 is not what was written"),
        ("UPDATE audit SET time = time + 1 WHERE id = 4", "line 4 is not what was written"),
        ("UPDATE audit SET hash = zeroblob(32) WHERE id = 4", "line 4 is not what was written"),
        ("DELETE FROM audit WHERE id IN (4, 5)", "lines 4 to 5 are missing"),
        ("DELETE FROM audit WHERE id >= 8", "lines 8 to 10 are missing at the end"),
        ("DELETE FROM audit", "lines 1 to 10 are missing at the end"),
        ("UPDATE audit SET id = 99 WHERE id = 10", "lines 10 to 98 are missing"),
        ("UPDATE audit_anchor SET hash = randomblob(32)", "line 1 is not what was written"),
    ],
)
def test_the_chain_breaks_where_it_was_touched(
    registry: SqliteRegistry, path: Path, statement: str, problem: str
) -> None:
    registry.append_audit([line(number) for number in range(10)])
    tamper(path, statement)
    assert problem in registry.verify_audit().problem
    registry.append_audit([line(99)])  # goes on, and heals nothing
    assert registry.verify_audit().problem


def test_a_chain_forged_as_a_whole_is_found_by_a_head_noted_elsewhere(
    registry: SqliteRegistry, path: Path
) -> None:
    registry.append_audit([line(number) for number in range(10)])
    seen = registry.audit_head()
    registry.append_audit([line(number) for number in range(10, 15)])
    assert registry.verify_audit(seen=seen).problem == ""
    tamper(path, "DELETE FROM audit")
    tamper(path, "DELETE FROM sqlite_sequence")
    registry.append_audit([line(number, node="shop-2") for number in range(15)])
    assert registry.verify_audit().problem == ""
    assert "line 10 is another than the one noted" in registry.verify_audit(seen=seen).problem
    assert registry.verify_audit(seen=AuditHead(16, "00" * 32)).problem == (
        "line 16 was noted, and the last one is 15"
    )


@pytest.mark.parametrize("anchored", [10, 12])
def test_a_forged_anchor_hides_no_line_that_was_noted(
    registry: SqliteRegistry, path: Path, anchored: int
) -> None:
    """Who may write to the file makes all of it anew, as if what was noted had been pruned."""
    registry.append_audit([line(number) for number in range(10)])
    seen = registry.audit_head()
    registry.append_audit([line(number) for number in range(10, 15)])
    tamper(path, "DELETE FROM audit")
    tamper(path, f"UPDATE audit_anchor SET id = {anchored}, hash = zeroblob(32)")
    registry.append_audit([line(number, node="shop-2") for number in range(5)])
    assert registry.verify_audit(seen=seen).problem


def _older(path: Path) -> None:
    """A registry of the Raven before the chain, with two lines."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for step in STEPS[:2]:
            for statement in step.split(";\n"):
                connection.execute(statement)
        connection.execute("PRAGMA user_version = 2")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        fields = "time, event, node, asker, target, verdict, detail"
        connection.executemany(
            f"INSERT INTO audit ({fields}) VALUES (?, 'http', 'a', 'b', 'c', 'd', 'e')", [(1.0,), (2.0,)]
        )


def test_lines_older_than_the_chain_stay_and_are_not_vouched_for(path: Path) -> None:
    _older(path)
    with contextlib.closing(SqliteRegistry(path, now=NOW)) as registry:
        assert registry.verify_audit().lines == 0
        registry.append_audit([line(1)])
        assert len(registry.audit()) == 3
        verdict = registry.verify_audit()
        assert (verdict.lines, verdict.head.line, verdict.problem) == (1, 3, "")


def test_a_walk_sees_one_state_of_a_busy_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "AUDIT_MAX", 5)
    with contextlib.closing(SqliteRegistry(path, now=NOW)) as registry:
        registry.append_audit([line(number) for number in range(5)])
        with contextlib.closing(Database(path, now=NOW)) as database:
            rows: Callable[[], list[object]] = lambda: database.read(audit_log.WHOLE)  # noqa: E731
            before = rows()
            registry.append_audit([line(number) for number in range(5, 9)])
            assert audit_log.check(before, None).head.line == 5
            assert audit_log.check(rows(), None).head.line == 9
