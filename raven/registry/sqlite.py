"""The embedded registry: nodes, tokens, certificates and audit in one SQLite file.

Implements `interface.Registry` on `database.Database`. A rule that involves more than one row is decided
inside the transaction that acts on it, so that two gateways' joiners, or two processes, cannot both win.
"""

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raven.control.copies import Copy
from raven.keys import PublicKey
from raven.pki.renewal import GRACE
from raven.registry import audit_log, copies, gateway_rows
from raven.registry.database import Database
from raven.registry.interface import (
    AuditHead,
    AuditRecord,
    CertificateRecord,
    CredentialRecord,
    Issue,
    KnownGateways,
    NodeRecord,
    TokenRecord,
)
from raven.registry.rows import (
    INSERT_CERTIFICATE,
    INSERT_CREDENTIAL,
    INSERT_TOKEN,
    certificate_columns,
    read_certificate,
    read_node,
    read_token,
    token_columns,
)
from raven.registry.rules import (
    REMEMBER,
    Newest,
    check_standing,
    check_token,
    judge_join,
    judge_renewal,
)


class SqliteRegistry:
    """The registry in the file at `path`; `create=False` refuses to make one."""

    def __init__(self, path: Path, *, now: float, create: bool = True) -> None:
        self._database = Database(path, now=now, create=create)

    def close(self) -> None:
        self._database.close()

    # Nodes

    def nodes(self) -> list[NodeRecord]:
        return [read_node(row) for row in self._database.read("SELECT * FROM nodes ORDER BY name")]

    def node(self, name: str) -> NodeRecord | None:
        rows = self._database.read("SELECT * FROM nodes WHERE name = ?", (name,))
        return read_node(rows[0]) if rows else None

    def nodes_at(self, address: str) -> list[str]:
        rows = self._database.read("SELECT name FROM nodes WHERE address = ? ORDER BY name", (address,))
        return [row["name"] for row in rows]

    def record_hello(
        self,
        name: str,
        *,
        public_key: PublicKey | None,
        pod_cidrs: Sequence[str],
        software: str,
        now: float,
        address: str = "",
    ) -> None:
        key = None if public_key is None else bytes(public_key)
        with self._database.transaction(durable=False) as connection:
            connection.execute(
                "UPDATE nodes SET public_key = ?, pod_cidrs = ?, software = ?, address = ? WHERE name = ?",
                (key, " ".join(pod_cidrs), software, address, name),
            )
            connection.execute(_SEEN, (now, name))

    def record_seen(self, seen: Mapping[str, float]) -> None:
        with self._database.transaction(durable=False) as connection:
            connection.executemany(_SEEN, [(time, name) for name, time in seen.items()])

    def allow_pods(self, name: str, cidrs: Sequence[str]) -> bool:
        with self._database.transaction(durable=True) as connection:
            query = "UPDATE nodes SET pod_allow = ? WHERE name = ?"
            return connection.execute(query, (" ".join(cidrs), name)).rowcount > 0

    def remove_node(self, name: str, *, now: float) -> bool:
        with self._database.transaction(durable=True) as connection:
            connection.execute(_REVOKE, (now, name))
            return connection.execute("DELETE FROM nodes WHERE name = ?", (name,)).rowcount > 0

    # Gateways

    def known_gateways(self) -> KnownGateways:
        return gateway_rows.known(self._database)

    def record_gateway(self, name: str, *, address: str, now: float) -> None:
        gateway_rows.record(self._database, name, address=address, now=now)

    def list_gateways(self, addresses: Mapping[str, str], *, now: float) -> None:
        gateway_rows.replace(self._database, addresses, now=now)

    def readdress_gateway(self, name: str, *, address: str, now: float) -> None:
        """Called when a gateway that joined says where agents dial it."""
        gateway_rows.readdress(self._database, name, address=address, now=now)

    def enrol_gateway(
        self,
        *,
        token_id: str,
        secret: bytes,
        name: str,
        address: str,
        key_hash: bytes,
        now: float,
        asker: str = "",
    ) -> None:
        """Redeems a token for a gateway: `name` has that key from now on. Durable; errors as of `enrol`.

        The same token, name and key once more is the repetition of a join whose answer was lost.
        """
        with self._database.transaction(durable=True) as connection:
            token = check_token(_find_token(connection, token_id), secret, role="gateway")
            gateway_rows.enrol(connection, token, name=name, address=address, key_hash=key_hash, now=now)
            connection.execute(_USE_TOKEN, (now, name, token_id))
            joined = AuditRecord(
                time=now, event="gateway-join", node=name, asker=asker, target=token_id, verdict="allowed"
            )
            audit_log.append(connection, [joined])

    def check_gateway(self, name: str, *, key_hash: bytes) -> None:
        """Returns if that gateway may follow this one; RefusedError "gateway-unknown" otherwise."""
        gateway_rows.check(self._database, name, key_hash=key_hash)

    def remove_gateway(self, name: str, *, now: float) -> bool:
        """Forgets a gateway, and has agents leave it; False when it was not there. Durable."""
        return gateway_rows.remove(self._database, name, now=now)

    # Copies

    def copy_revision(self) -> int:
        return copies.revision(self._database)

    def copy(self) -> list[Copy]:
        """Everything a gateway that follows this one has to know."""
        return copies.read(self._database)

    def take_copy(self, pages: Sequence[Copy]) -> None:
        """Called on the following side when a copy is whole. Durable."""
        with self._database.transaction(durable=True) as connection:
            copies.write(connection, pages)

    def adopt(self, certificate: CertificateRecord, *, now: float) -> None:
        """Called on the following side when a certificate was issued, ahead of the next copy."""
        with self._database.transaction(durable=False) as connection:
            connection.execute("DELETE FROM certificates WHERE serial = ?", (certificate.serial,))
            connection.execute(INSERT_CERTIFICATE, ("", *certificate_columns(certificate)))
            connection.execute(_UPSERT_NODE, (certificate.node, now, certificate.serial))

    # Tokens

    def add_token(self, token: TokenRecord) -> None:
        with self._database.transaction(durable=True) as connection:
            connection.execute("DELETE FROM tokens WHERE expires < ?", (token.created - REMEMBER,))
            connection.execute(INSERT_TOKEN, token_columns(token))

    def tokens(self) -> list[TokenRecord]:
        query = "SELECT * FROM tokens ORDER BY created DESC, id"
        return [read_token(row) for row in self._database.read(query)]

    def remove_token(self, token_id: str) -> bool:
        with self._database.transaction(durable=True) as connection:
            return connection.execute("DELETE FROM tokens WHERE id = ?", (token_id,)).rowcount > 0

    # Credentials of O&M clients

    def add_credential(self, credential: CredentialRecord) -> None:
        with self._database.transaction(durable=True) as connection:
            connection.execute("DELETE FROM credentials WHERE expires < ?", (credential.created - REMEMBER,))
            connection.execute(INSERT_CREDENTIAL, dataclasses.asdict(credential))

    def credential(self, credential_id: str) -> CredentialRecord | None:
        rows = self._database.read("SELECT * FROM credentials WHERE id = ?", (credential_id,))
        return CredentialRecord(**rows[0]) if rows else None

    def credentials(self) -> list[CredentialRecord]:
        rows = self._database.read("SELECT * FROM credentials ORDER BY created DESC, id")
        return [CredentialRecord(**row) for row in rows]

    def revoke_credential(self, credential_id: str, *, now: float) -> bool:
        with self._database.transaction(durable=True) as connection:
            query = "UPDATE credentials SET revoked = ? WHERE id = ? AND revoked IS NULL"
            return connection.execute(query, (now, credential_id)).rowcount > 0

    # Joining

    def enrol(
        self,
        *,
        token_id: str,
        secret: bytes,
        node: str,
        key_hash: bytes,
        now: float,
        issue: Issue,
        asker: str = "",
    ) -> CertificateRecord:
        with self._database.transaction(durable=True) as connection:
            token = check_token(_find_token(connection, token_id), secret, role="node")
            newest = _newest(connection, node)
            earlier = judge_join(token, newest, node=node, key_hash=key_hash, now=now)
            if earlier is not None:
                return earlier
            certificate = issue(node)
            assert certificate.node == node
            connection.execute(_FORGET_CERTIFICATES, (now - GRACE - REMEMBER,))
            connection.execute(_REVOKE, (now, node))
            connection.execute(INSERT_CERTIFICATE, (token_id, *certificate_columns(certificate)))
            connection.execute(_UPSERT_NODE, (node, now, certificate.serial))
            if token.pod_cidrs:
                connection.execute(
                    "UPDATE nodes SET pod_allow = ? WHERE name = ?", (" ".join(token.pod_cidrs), node)
                )
            connection.execute(_USE_TOKEN, (now, node, token_id))
            joined = AuditRecord(
                time=now, event="join", node=node, asker=asker, target=token_id, verdict="allowed"
            )
            audit_log.append(connection, [joined])
            return certificate

    def renew(
        self,
        *,
        node: str,
        serial: str,
        key_hash: bytes,
        now: float,
        issue: Issue,
        asker: str = "",
        due: bool = False,
    ) -> CertificateRecord:
        with self._database.transaction(durable=True) as connection:
            found = connection.execute(_STANDING, (serial, node)).fetchone()
            shown = check_standing(_shown(found), node=node, known=found is not None)
            newest = _newest(connection, node)
            assert newest is not None, "whose certificate stands is there"
            assert newest.certificate is not None, "it is no older than the one that stands"
            earlier = judge_renewal(shown, newest.certificate, node=node, key_hash=key_hash, now=now, due=due)
            if earlier is not None:
                return earlier
            certificate = issue(node)
            assert certificate.node == node
            connection.execute(_FORGET_CERTIFICATES, (now - GRACE - REMEMBER,))
            connection.execute(INSERT_CERTIFICATE, ("", *certificate_columns(certificate)))
            connection.execute(_UPSERT_NODE, (node, now, certificate.serial))
            renewed = AuditRecord(
                time=now,
                event="renew",
                node=node,
                asker=asker,
                target=certificate.serial,
                verdict="allowed",
            )
            audit_log.append(connection, [renewed])
            return certificate

    def record_use(self, *, node: str, serial: str, now: float) -> None:
        if self._database.read(f"SELECT 1 {_OLDER} LIMIT 1", (node, serial)):
            with self._database.transaction(durable=False) as connection:
                connection.execute(
                    f"UPDATE certificates SET superseded = ? WHERE rowid IN (SELECT rowid {_OLDER})",
                    (now, node, serial),
                )

    def check_certificate(self, *, node: str, serial: str, connected: bool = False) -> None:
        rows = self._database.read(_STANDING, (serial, node))
        shown = _shown(rows[0] if rows else None)
        check_standing(shown, node=node, known=bool(rows), connected=connected)

    def entitled(self, *, now: float) -> set[str]:
        return {row["name"] for row in self._database.read(_ENTITLED, (now,))}

    def revision(self) -> int:
        value: int = self._database.read("SELECT value FROM revision")[0][0]
        return value

    def expiries(self) -> dict[str, float]:
        """When each certificate that is remembered ends, by serial."""
        return dict(self._database.read("SELECT serial, not_after FROM certificates"))

    def certificates(self, node: str) -> list[CertificateRecord]:
        query = "SELECT * FROM certificates WHERE node = ? ORDER BY issued DESC, rowid DESC"
        return [read_certificate(row) for row in self._database.read(query, (node,))]

    # Audit

    def append_audit(self, records: Sequence[AuditRecord]) -> None:
        with self._database.transaction(durable=False) as connection:
            audit_log.append(connection, records)

    def audit(self, limit: int = 100) -> list[AuditRecord]:
        query = f"SELECT {audit_log.FIELDS} FROM audit ORDER BY id DESC LIMIT ?"
        return [AuditRecord(**row) for row in self._database.read(query, (limit,))]

    def audit_head(self) -> AuditHead:
        return audit_log.head(self._database.read(audit_log.HEAD)[0])

    def verify_audit(self, *, seen: AuditHead | None = None) -> audit_log.AuditVerdict:
        """Whether every line since the anchor is what was written, and `seen` is among them."""
        return audit_log.check(self._database.read(audit_log.WHOLE), seen)


@contextlib.contextmanager
def open_existing(path: Path, *, now: float) -> Iterator[SqliteRegistry]:
    """The registry of a gateway that may be running; StateError when there is none."""
    registry = SqliteRegistry(path, now=now, create=False)
    try:
        yield registry
    finally:
        registry.close()


_SEEN = "UPDATE nodes SET last_seen = max(coalesce(last_seen, 0), ?) WHERE name = ?"
_FORGET_CERTIFICATES = "DELETE FROM certificates WHERE not_after < ?"
_REVOKE = "UPDATE certificates SET revoked = ? WHERE node = ? AND revoked IS NULL"
_STANDING = (
    "SELECT certificates.* FROM nodes LEFT JOIN certificates ON node = name AND serial = ? WHERE name = ?"
)
_ENTITLED = (
    "SELECT DISTINCT name FROM nodes JOIN certificates ON node = name"
    " WHERE revoked IS NULL AND superseded IS NULL AND not_after >= ?"
)
# rowid grows with every certificate, where times of issue may be equal
_OLDER = (
    "FROM certificates WHERE node = ? AND superseded IS NULL AND revoked IS NULL"
    " AND rowid < (SELECT rowid FROM certificates WHERE serial = ?)"
)
_UPSERT_NODE = (
    "INSERT INTO nodes (name, created, certificate_serial) VALUES (?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET certificate_serial = excluded.certificate_serial"
)
_USE_TOKEN = "UPDATE tokens SET uses = uses + 1, used = ?, used_by = ? WHERE id = ?"


def _find_token(connection: sqlite3.Connection, token_id: str) -> TokenRecord | None:
    row = connection.execute("SELECT * FROM tokens WHERE id = ?", (token_id,)).fetchone()
    return read_token(row) if row else None


def _shown(row: Any) -> CertificateRecord | None:
    """What `_STANDING` gave; None where there is no node, or no such certificate of it."""
    return None if row is None or row["serial"] is None else read_certificate(row)


def _newest(connection: sqlite3.Connection, node: str) -> Newest | None:
    """The certificate `node` got last; None when there is no such node."""
    row = connection.execute(
        "SELECT certificates.* FROM nodes LEFT JOIN certificates ON serial = certificate_serial"
        " WHERE name = ?",
        (node,),
    ).fetchone()
    if row is None:
        return None
    return Newest(_shown(row), row["token_id"] or "")
