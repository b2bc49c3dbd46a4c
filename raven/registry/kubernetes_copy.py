"""What the API server says of a node or a credential, written over this gateway's copy in registry.sqlite.

Writes only what differs, so that a gateway that starts among ten thousand nodes it knew writes nothing, and
the triggers that tell of rights taken back fire when one was. What the copy has of its own stays: when a node
was last seen here, and the audit.
"""

from __future__ import annotations

import dataclasses
import sqlite3

from raven.registry.database import Database
from raven.registry.interface import CertificateRecord, CredentialRecord
from raven.registry.kubernetes_node import SharedNode
from raven.registry.rows import (
    INSERT_CERTIFICATE,
    INSERT_CREDENTIAL,
    certificate_columns,
    read_certificate,
    read_node,
)

_REVOKE = "UPDATE certificates SET revoked = ? WHERE node = ? AND revoked IS NULL"


def put_node(connection: sqlite3.Connection, node: SharedNode, *, now: float) -> None:
    """Inside a transaction."""
    row = connection.execute("SELECT * FROM nodes WHERE name = ?", (node.name,)).fetchone()
    serial = node.certificates[-1].serial if node.certificates else ""
    said = (
        *(node.public_key, " ".join(node.pod_cidrs), node.software, node.address),
        *(serial, node.created),
    )
    allowed = " ".join(node.pod_allow)
    if row is None:
        connection.execute(
            "INSERT INTO nodes (public_key, pod_cidrs, software, address, certificate_serial, created,"
            " pod_allow, name) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*said, allowed, node.name),
        )
    else:
        names = ("public_key", "pod_cidrs", "software", "address", "certificate_serial", "created")
        if said != tuple(row[name] for name in names):
            columns = ", ".join(f"{name} = ?" for name in names)
            connection.execute(f"UPDATE nodes SET {columns} WHERE name = ?", (*said, node.name))
        if allowed != row["pod_allow"]:  # on its own: the trigger sees the column, not the value
            connection.execute("UPDATE nodes SET pod_allow = ? WHERE name = ?", (allowed, node.name))
    _put_certificates(connection, node, now)


def remove_node(connection: sqlite3.Connection, name: str, *, now: float) -> None:
    """Inside a transaction."""
    connection.execute(_REVOKE, (now, name))
    connection.execute("DELETE FROM nodes WHERE name = ?", (name,))


def put_credential(connection: sqlite3.Connection, record: CredentialRecord) -> None:
    """Inside a transaction."""
    row = connection.execute("SELECT * FROM credentials WHERE id = ?", (record.id,)).fetchone()
    if row is not None and record == CredentialRecord(**row):
        return
    connection.execute("DELETE FROM credentials WHERE id = ?", (record.id,))
    connection.execute(INSERT_CREDENTIAL, dataclasses.asdict(record))
    _look_again(connection)


def remove_credential(connection: sqlite3.Connection, credential_id: str) -> None:
    """Inside a transaction."""
    if connection.execute("DELETE FROM credentials WHERE id = ?", (credential_id,)).rowcount:
        _look_again(connection)


def _put_certificates(connection: sqlite3.Connection, node: SharedNode, now: float) -> None:
    query = "SELECT serial, revoked, superseded FROM certificates WHERE node = ?"
    held = {row["serial"]: row for row in connection.execute(query, (node.name,)).fetchall()}
    for one in node.certificates:
        row = held.pop(one.serial, None)
        if row is None:
            columns = certificate_columns(one.record(node.name))
            connection.execute(INSERT_CERTIFICATE, (one.token, *columns))
        for column, value in (("revoked", one.revoked), ("superseded", one.superseded)):
            if value != (row[column] if row is not None else None):
                query = f"UPDATE certificates SET {column} = ? WHERE serial = ?"
                connection.execute(query, (value, one.serial))
    for serial, row in held.items():
        # What the cluster has forgotten counts no more; kept, so that whoever comes with it hears why not.
        if row["revoked"] is None:
            connection.execute("UPDATE certificates SET revoked = ? WHERE serial = ?", (now, serial))


def _look_again(connection: sqlite3.Connection) -> None:
    """Requests and tunnels under way are judged anew; the triggers see no credential that came revoked."""
    connection.execute("UPDATE revision SET value = value + 1")


def export_nodes(database: Database) -> list[SharedNode]:
    """Every node that this copy holds, as the cluster keeps it."""
    query = "SELECT * FROM certificates ORDER BY node, rowid"
    held: dict[str, list[tuple[CertificateRecord, str]]] = {}
    for row in database.read(query):
        held.setdefault(row["node"], []).append((read_certificate(row), row["token_id"]))
    nodes = (read_node(row) for row in database.read("SELECT * FROM nodes ORDER BY name"))
    return [SharedNode.of(node, held.get(node.name, [])) for node in nodes]
