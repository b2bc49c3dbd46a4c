"""The audit table: lines that are only appended, each with a hash that carries the one before.

A line that was changed, removed or slipped in breaks the chain at its place. The oldest lines are pruned; the
hash of the last pruned one stays as the anchor that the rest hangs on. Whoever can write to the file could
forge the whole chain, so its head belongs into other hands now and then: the gateway logs it.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from raven.errors import ConfigError
from raven.registry.interface import AuditHead, AuditRecord

AUDIT_MAX = 100_000  # rows, about 20 MB: a day of a request a second, on a disk that must also hold the WAL
AUDIT_FIELD_MAX = 500  # characters kept of a field; askers choose how long what they ask for is

_REWRITTEN = "line {} is another than the one noted; the lines up to it were rewritten"

FIELDS = "time, event, node, asker, target, verdict, detail, request, sent, received, seconds"
_OLD = 7  # fields of a line before there were more; one whose others are NULL is hashed as it was then
HEAD = (
    "SELECT id, hash FROM audit WHERE hash IS NOT NULL UNION ALL SELECT id, hash FROM audit_anchor"
    " ORDER BY id DESC LIMIT 1"
)
# One statement sees one state of the file, whoever appends and prunes meanwhile. The anchor comes first, then
# the lines after it; `newest` is what SQLite counted, which removing lines does not turn back.
WHOLE = (
    "SELECT id, NULL AS time, NULL AS event, NULL AS node, NULL AS asker, NULL AS target, NULL AS verdict,"
    " (SELECT seq FROM sqlite_sequence WHERE name = 'audit') AS detail, NULL AS request, NULL AS sent,"
    " NULL AS received, NULL AS seconds, hash, 0 AS rank FROM audit_anchor"
    f" UNION ALL SELECT id, {FIELDS}, hash, 1 FROM audit WHERE id > (SELECT id FROM audit_anchor)"
    " ORDER BY rank, id"
)


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What a walk along the chain found."""

    lines: int  # that hang together, from the anchor on
    head: AuditHead  # the last of them
    problem: str = ""  # a sentence: where the chain breaks, and how


def append(connection: sqlite3.Connection, records: Sequence[AuditRecord]) -> None:
    """Inside a transaction: adds the lines, prunes the oldest."""
    if not records:
        return
    number, previous = connection.execute(HEAD).fetchone()
    newest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
    number = max(number, newest[0] if newest else 0)  # a number that was removed is not used again
    rows = []
    for record in records:
        fields = _fields(record)
        number += 1
        previous = _link(previous, number, fields)
        rows.append((number, *fields, previous))
    connection.executemany(f"INSERT INTO audit (id, {FIELDS}, hash) VALUES ({', '.join('?' * 13)})", rows)
    _prune(connection, number - AUDIT_MAX)


def head(row: Any) -> AuditHead:
    return AuditHead(row["id"], row["hash"].hex())


def check(rows: Iterable[Any], seen: AuditHead | None) -> AuditVerdict:
    """Walks along the rows of `WHOLE`; `seen` is a head noted earlier, which must still be among them."""
    walk = iter(rows)
    anchor = next(walk)
    number, previous, newest = anchor["id"], anchor["hash"], int(anchor["detail"] or 0)
    first = number

    def verdict(problem: str = "") -> AuditVerdict:
        return AuditVerdict(number - first, AuditHead(number, previous.hex()), problem)

    if seen is not None and seen.line < number:
        return verdict(f"line {seen.line} was noted, and the lines up to {number} were pruned, or cut away")
    if seen is not None and seen.line == number and seen.hash != previous.hex():
        return verdict(_REWRITTEN.format(number))
    for row in walk:
        if row["id"] != number + 1:
            return verdict(f"lines {number + 1} to {row['id'] - 1} are missing")
        fields = tuple(row)[1:12]
        if row["hash"] != _link(previous, row["id"], fields):
            return verdict(f"line {row['id']} is not what was written, or the line before it is not")
        number, previous = row["id"], row["hash"]
        if seen is not None and seen.line == number and seen.hash != previous.hex():
            return verdict(_REWRITTEN.format(number))
    if newest > number:
        return verdict(f"lines {number + 1} to {newest} are missing at the end")
    if seen is not None and seen.line > number:
        return verdict(f"line {seen.line} was noted, and the last one is {number}")
    return verdict()


def parse_head(text: str) -> AuditHead:
    """The head that a log line's `seen` spells; ConfigError otherwise."""
    line, _, digest = text.partition(":")
    if not re.fullmatch(r"[0-9]{1,18}", line, re.ASCII) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"--seen {text}: expected LINE:HASH, as the gateway's log has it")
    return AuditHead(int(line), digest)


def _link(previous: bytes, number: int, fields: Sequence[Any]) -> bytes:
    """The hash of a line: over the hash before it and all that the line says."""
    told = fields if any(field is not None for field in fields[_OLD:]) else fields[:_OLD]
    return hashlib.sha256(previous + msgspec.json.encode([number, *told])).digest()


def _fields(r: AuditRecord) -> tuple[Any, ...]:
    texts = (r.event, r.node, r.asker, r.target, r.verdict, r.detail)
    request = None if r.request is None else r.request[:AUDIT_FIELD_MAX]
    seconds = None if r.seconds is None else float(r.seconds)
    return (
        float(r.time),
        *(text[:AUDIT_FIELD_MAX] for text in texts),
        request,
        r.sent,
        r.received,
        seconds,
    )


def _prune(connection: sqlite3.Connection, last: int) -> None:
    connection.execute(
        "UPDATE audit_anchor SET (id, hash) = (SELECT id, hash FROM audit WHERE id = ?1)"
        " WHERE EXISTS (SELECT 1 FROM audit WHERE id = ?1 AND hash IS NOT NULL)",
        (last,),
    )
    connection.execute("DELETE FROM audit WHERE id <= ?", (last,))
