"""Audit lines on their way to the registry."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from gateway.oam.audit import QUEUE_MAX, RegistryAudit
from raven import log
from raven.errors import StateError
from raven.oam.audit import AuditLine
from raven.registry.interface import AuditRecord, Registry
from raven.registry.sqlite import SqliteRegistry


def _line(number: int) -> AuditLine:
    return AuditLine(
        id=str(number),
        time=float(number),
        asker="192.0.2.1:1",
        method="CONNECT",
        node="shop-1",
        host="",
        port=9100,
        verdict="allowed",
        status=200,
        bytes_to_target=1,
        bytes_from_target=2,
        duration=0.1,
    )


async def test_lines_reach_the_registry_and_the_last_ones_too(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "registry.sqlite", now=0.0)
    audit = RegistryAudit(registry)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        audit.record(_line(1))
        await trio.testing.wait_all_tasks_blocked()
        audit.record(_line(2))
        nursery.cancel_scope.cancel()
    newest, oldest = registry.audit()
    assert (newest.time, oldest.time) == (2.0, 1.0)
    assert (newest.event, newest.node, newest.target) == ("connect", "shop-1", "shop-1:9100")
    assert audit.verdicts == {"allowed": 2}
    registry.close()


async def test_what_is_allowed_has_its_line_beside_a_flood_of_refusals(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "registry.sqlite", now=0.0)
    audit = RegistryAudit(registry, clock=lambda: 0.0)
    refused = dataclasses.replace(_line(0), asker="anonymous at 192.0.2.1:1", verdict="not-permitted")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        for number in range(3 * QUEUE_MAX):
            audit.record(dataclasses.replace(refused, id=str(number)))
        audit.record(_line(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    told = [(line.verdict, line.detail) for line in registry.audit()]
    assert sorted(told) == [
        ("allowed", ""),
        ("not-permitted", ""),
        ("not-permitted", f"and {3 * QUEUE_MAX - 1} more like it in 1 s: "),
    ]
    assert audit.dropped == 0
    registry.close()


class _FullDisk:
    def __init__(self) -> None:
        self.asked = trio.Event()

    def append_audit(self, records: Sequence[AuditRecord]) -> None:
        trio.from_thread.run_sync(self.asked.set)
        raise StateError("registry.sqlite: no space left on device")


async def test_a_full_disk_stops_nothing_and_is_counted() -> None:
    disk = _FullDisk()
    audit = RegistryAudit(cast(Registry, disk))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        audit.record(_line(1))
        await disk.asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert audit.dropped == 1


class _FullAtTimes(SqliteRegistry):
    full = False

    def append_audit(self, records: Sequence[AuditRecord]) -> None:
        if self.full:
            raise StateError("registry.sqlite: no space left on device")
        super().append_audit(records)


async def test_a_full_disk_is_told_when_it_begins_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.oam.audit.PAUSE", 0.01)
    log.configure(format="json", stream=io.StringIO())
    log.recent.clear()
    registry = _FullAtTimes(tmp_path / "registry.sqlite", now=0.0)
    audit = RegistryAudit(registry)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        for _ in range(2):
            registry.full = True
            for number in range(3):
                dropped = audit.dropped
                audit.record(_line(number))
                while audit.dropped == dropped:  # noqa: ASYNC110 - a plain counter
                    await trio.sleep(0.01)
            registry.full = False
            audit.record(_line(3))
            while log.recent.lines()[-1].what != "audit written again":  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    told = [(line.what, line.details["lines"]) for line in log.recent.lines()]
    assert told == 2 * [("audit not written", "1"), ("audit written again", "3")]
    registry.close()


def test_a_queue_that_nobody_empties_is_bounded(tmp_path: Path) -> None:
    audit = RegistryAudit(cast(Registry, None))
    for number in range(QUEUE_MAX + 3):
        audit.record(_line(number))
    assert audit.dropped == 3
