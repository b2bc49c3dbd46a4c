"""The embedded registry as another gateway copies it: read in pages, and written over what was there.

What a copy has of its own stays: when a node was last seen there, and its audit.
"""

import base64
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

from raven.control.copies import PAGE, CopiedCertificate, CopiedCredential, CopiedGateway, CopiedNode, Copy
from raven.registry.database import Database

T = TypeVar("T")


def revision(database: Database) -> int:
    """Another number than before whenever `read` gives something else. Cheap."""
    ((value,),) = database.read("SELECT revision FROM copy")
    return int(value)


def read(database: Database) -> list[Copy]:
    """All of it, the last page with the gateways."""
    # The revision first: what changes meanwhile is copied once more.
    before = revision(database)
    nodes = [_node(row) for row in database.read("SELECT * FROM nodes ORDER BY name")]
    certificates = [_certificate(row) for row in database.read("SELECT * FROM certificates ORDER BY rowid")]
    gateways = tuple(
        CopiedGateway(name=row["name"], address=row["address"], created=row["created"])
        for row in database.read("SELECT * FROM gateways ORDER BY created, name LIMIT ?", (PAGE,))
    )
    ((listed,),) = database.read("SELECT revision FROM gateway_list")
    credentials = [_credential(row) for row in database.read("SELECT * FROM credentials ORDER BY rowid")]
    pages = [
        Copy(
            revision=before,
            more=True,
            nodes=tuple(some),
            certificates=tuple(others),
            credentials=tuple(askers),
        )
        for some, others, askers in zip_longest(
            _paged(nodes), _paged(certificates), _paged(credentials), fillvalue=()
        )
    ]
    return [*pages, Copy(revision=before, more=False, gateways=gateways, gateways_revision=int(listed))]


def write(connection: sqlite3.Connection, pages: Sequence[Copy]) -> None:
    """Inside a transaction: nodes, certificates, askers and gateways become what the pages say."""
    nodes = [node for page in pages for node in page.nodes]
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS copied (name TEXT PRIMARY KEY)")
    connection.execute("DELETE FROM temp.copied")
    connection.executemany("INSERT INTO temp.copied VALUES (?)", [(node.name,) for node in nodes])
    connection.execute("DELETE FROM nodes WHERE name NOT IN (SELECT name FROM temp.copied)")
    connection.executemany(_UPSERT_NODE, [_node_columns(node) for node in nodes])
    connection.execute("DELETE FROM certificates")
    connection.executemany(
        _INSERT_CERTIFICATE,
        [_certificate_columns(certificate) for page in pages for certificate in page.certificates],
    )
    connection.execute("DELETE FROM credentials")
    connection.executemany(
        "INSERT INTO credentials (id, kind, name, secret_hash, created, expires, revoked)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [_credential_columns(credential) for page in pages for credential in page.credentials],
    )
    last = pages[-1]
    connection.execute("DELETE FROM gateways")
    connection.executemany(
        "INSERT INTO gateways (name, address, created) VALUES (?, ?, ?)",
        [(gateway.name, gateway.address, gateway.created) for gateway in last.gateways],
    )
    connection.execute("UPDATE gateway_list SET revision = ?", (last.gateways_revision,))
    # Who is connected is looked at anew: the triggers do not see a certificate that came revoked.
    connection.execute("UPDATE revision SET value = value + 1")


_UPSERT_NODE = (
    "INSERT INTO nodes (name, created, public_key, pod_cidrs, software, certificate_serial, address,"
    " pod_allow) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET created = excluded.created,"
    " public_key = excluded.public_key, pod_cidrs = excluded.pod_cidrs, software = excluded.software,"
    " certificate_serial = excluded.certificate_serial, address = excluded.address,"
    " pod_allow = excluded.pod_allow"
)
_INSERT_CERTIFICATE = (
    "INSERT INTO certificates (serial, node, token_id, key_hash, not_before, not_after, issued, pem, revoked,"
    " superseded) VALUES (?, ?, '', ?, ?, ?, ?, '', ?, ?)"
)


def _paged(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), PAGE):
        yield rows[start : start + PAGE]


def _node(row: Any) -> CopiedNode:
    key = row["public_key"]
    return CopiedNode(
        name=row["name"],
        created=row["created"],
        public_key="" if key is None else base64.b64encode(key).decode("ascii"),
        pod_cidrs=row["pod_cidrs"].split(),
        software=row["software"],
        certificate_serial=row["certificate_serial"],
        address=row["address"],
        pod_allow=row["pod_allow"].split(),
    )


def _node_columns(node: CopiedNode) -> tuple[Any, ...]:
    key = base64.b64decode(node.public_key) if node.public_key else None
    return (
        *(node.name, node.created, key, " ".join(node.pod_cidrs)),
        *(node.software, node.certificate_serial, node.address, " ".join(node.pod_allow)),
    )


def _credential(row: Any) -> CopiedCredential:
    hashed = row["secret_hash"]
    return CopiedCredential(
        id=row["id"],
        kind=row["kind"],
        name=row["name"],
        secret_hash="" if hashed is None else base64.b64encode(hashed).decode("ascii"),
        created=row["created"],
        expires=row["expires"],
        revoked=row["revoked"],
    )


def _credential_columns(copied: CopiedCredential) -> tuple[Any, ...]:
    hashed = base64.b64decode(copied.secret_hash) if copied.secret_hash else None
    c = copied
    return (c.id, c.kind, c.name, hashed, c.created, c.expires, c.revoked)


def _certificate(row: Any) -> CopiedCertificate:
    return CopiedCertificate(
        serial=row["serial"],
        node=row["node"],
        key_hash=base64.b64encode(row["key_hash"]).decode("ascii"),
        not_before=row["not_before"],
        not_after=row["not_after"],
        issued=row["issued"],
        revoked=row["revoked"],
        superseded=row["superseded"],
    )


def _certificate_columns(copied: CopiedCertificate) -> tuple[Any, ...]:
    c = copied
    hashed = base64.b64decode(c.key_hash)
    return (c.serial, c.node, hashed, c.not_before, c.not_after, c.issued, c.revoked, c.superseded)
