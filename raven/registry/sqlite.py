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
from raven.errors import RefusedError
from raven.keys import PublicKey
from raven.pki.renewal import GRACE, renew_at
from raven.pki.token import secret_matches
from raven.registry import audit_log, copies
from raven.registry.database import Database
from raven.registry.interface import (
    AuditHead,
    AuditRecord,
    CertificateRecord,
    CredentialRecord,
    GatewayRecord,
    Issue,
    KnownGateways,
    NodeRecord,
    TokenRecord,
)

RENEW_EARLY = 3600.0  # seconds before it is due; an agent counts on another clock, and spreads
RENEW_OFTEN = 600.0  # seconds between two renewals of a node: what a broken one can fill the disk with
REMEMBER = 30 * 86400.0  # seconds a dead token or certificate is kept, so that its user hears why it is dead

_NO_HASH = bytes(32)  # compared with when there is no such token, so that both answers take as long


class SqliteRegistry:
    """The registry in the file at `path`; `create=False` refuses to make one."""

    def __init__(self, path: Path, *, now: float, create: bool = True) -> None:
        self._database = Database(path, now=now, create=create)

    def close(self) -> None:
        self._database.close()

    # Nodes

    def nodes(self) -> list[NodeRecord]:
        return [_node(row) for row in self._database.read("SELECT * FROM nodes ORDER BY name")]

    def node(self, name: str) -> NodeRecord | None:
        rows = self._database.read("SELECT * FROM nodes WHERE name = ?", (name,))
        return _node(rows[0]) if rows else None

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
        ((revision,),) = self._database.read("SELECT revision FROM gateway_list")
        rows = self._database.read("SELECT * FROM gateways ORDER BY created, name")
        return KnownGateways(revision, tuple(_gateway(row) for row in rows))

    def record_gateway(self, name: str, *, address: str, now: float) -> None:
        if self._database.read("SELECT 1 FROM gateways WHERE name = ? AND address = ?", (name, address)):
            return
        with self._database.transaction(durable=True) as connection:
            connection.execute(
                "INSERT INTO gateways (name, address, created) VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET address = excluded.address",
                (name, address, now),
            )
            connection.execute(_NEW_LIST, (int(now * 1000),))

    def readdress_gateway(self, name: str, *, address: str, now: float) -> None:
        """Called when a gateway that joined says where agents dial it."""
        known = "FROM gateways WHERE name = ? AND address <> ?"
        if self._database.read(f"SELECT 1 {known}", (name, address)):
            with self._database.transaction(durable=False) as connection:
                connection.execute("UPDATE gateways SET address = ? WHERE name = ?", (address, name))
                connection.execute(_NEW_LIST, (int(now * 1000),))

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
            token = _find_token(connection, token_id, secret, role="gateway")
            known = connection.execute("SELECT * FROM gateways WHERE name = ?", (name,)).fetchone()
            repeated = known is not None and known["key_hash"] == key_hash and token.used_by == name
            if now >= token.expires:
                raise RefusedError("token-expired", "the token has expired; have a new one made")
            if token.node is not None and token.node != name:
                raise RefusedError("token-node", f"the token is for another gateway than {name}")
            if token.uses and not token.reusable and not repeated:
                raise RefusedError("token-used", "the token has been used; have a new one made")
            if known is not None and (known["key_hash"] is None or token.node is None) and not repeated:
                raise RefusedError("gateway-taken", f"there is a gateway {name} already; choose another name")
            connection.execute(
                "INSERT INTO gateways (name, address, created, key_hash) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET address = excluded.address, key_hash = excluded.key_hash",
                (name, address, now, key_hash),
            )
            connection.execute(_NEW_LIST, (int(now * 1000),))
            connection.execute(_USE_TOKEN, (now, name, token_id))
            joined = AuditRecord(
                time=now, event="gateway-join", node=name, asker=asker, target=token_id, verdict="allowed"
            )
            audit_log.append(connection, [joined])

    def check_gateway(self, name: str, *, key_hash: bytes) -> None:
        """Returns if that gateway may follow this one; RefusedError "gateway-unknown" otherwise."""
        if not self._database.read(
            "SELECT 1 FROM gateways WHERE name = ? AND key_hash = ?", (name, key_hash)
        ):
            raise RefusedError("gateway-unknown", f"gateway {name} has not joined here, or was removed since")

    def remove_gateway(self, name: str, *, now: float) -> bool:
        """Forgets a gateway, and has agents leave it; False when it was not there. Durable."""
        with self._database.transaction(durable=True) as connection:
            if connection.execute("DELETE FROM gateways WHERE name = ?", (name,)).rowcount == 0:
                return False
            connection.execute(_NEW_LIST, (int(now * 1000),))
            return True

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
            connection.execute(_INSERT_CERTIFICATE, ("", *_columns(certificate)))
            connection.execute(_UPSERT_NODE, (certificate.node, now, certificate.serial))

    # Tokens

    def add_token(self, token: TokenRecord) -> None:
        with self._database.transaction(durable=True) as connection:
            connection.execute("DELETE FROM tokens WHERE expires < ?", (token.created - REMEMBER,))
            connection.execute(
                "INSERT INTO tokens (id, secret_hash, node, reusable, created, expires, pod_cidrs, role)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(token.id, token.secret_hash, token.node, token.reusable, token.created, token.expires),
                    *(" ".join(token.pod_cidrs), token.role),
                ),
            )

    def tokens(self) -> list[TokenRecord]:
        return [_token(row) for row in self._database.read("SELECT * FROM tokens ORDER BY created DESC, id")]

    def remove_token(self, token_id: str) -> bool:
        with self._database.transaction(durable=True) as connection:
            return connection.execute("DELETE FROM tokens WHERE id = ?", (token_id,)).rowcount > 0

    # Credentials of O&M clients

    def add_credential(self, credential: CredentialRecord) -> None:
        with self._database.transaction(durable=True) as connection:
            connection.execute("DELETE FROM credentials WHERE expires < ?", (credential.created - REMEMBER,))
            connection.execute(_INSERT_CREDENTIAL, dataclasses.asdict(credential))

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
            token = _find_token(connection, token_id, secret, role="node")
            if now >= token.expires:
                raise RefusedError("token-expired", "the token has expired; have a new one made")
            current = _current_certificate(connection, node)
            if current and current["token_id"] == token_id and current["key_hash"] == key_hash:
                earlier = _certificate(current)
                if now < renew_at(earlier.not_before, earlier.not_after):
                    return earlier
            if token.node is not None and token.node != node:
                raise RefusedError("token-node", f"the token is for another node than {node}")
            if token.uses and not token.reusable:
                raise RefusedError("token-used", "the token has been used; have a new one made")
            if current and token.node is None:
                raise RefusedError(
                    "node-taken",
                    f"a node {node} has joined already; choose another name, or have a token made"
                    f" with --node {node}",
                )
            certificate = issue(node)
            assert certificate.node == node
            connection.execute(_FORGET_CERTIFICATES, (now - GRACE - REMEMBER,))
            connection.execute(_REVOKE, (now, node))
            connection.execute(_INSERT_CERTIFICATE, (token_id, *_columns(certificate)))
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
            shown = _standing(connection.execute(_STANDING, (serial, node)).fetchone(), node)
            newest = _current_certificate(connection, node)
            if newest["serial"] != serial:
                if newest["key_hash"] == key_hash and now < renew_at(*_bounds(newest)):
                    return _certificate(newest)
                if now < newest["issued"] + RENEW_OFTEN:
                    raise RefusedError("renew-often", f"node {node} has renewed its certificate just now")
            if not due and now < renew_at(*_bounds(shown)) - RENEW_EARLY:
                raise RefusedError("renew-early", f"the certificate of node {node} is not due yet")
            certificate = issue(node)
            assert certificate.node == node
            connection.execute(_FORGET_CERTIFICATES, (now - GRACE - REMEMBER,))
            connection.execute(_INSERT_CERTIFICATE, ("", *_columns(certificate)))
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
        _standing(rows[0] if rows else None, node, connected=connected)

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
        return [_certificate(row) for row in self._database.read(query, (node,))]

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


# Milliseconds rather than a count: a registry restored from a backup would tell numbers agents have seen.
_NEW_LIST = "UPDATE gateway_list SET revision = max(revision + 1, ?)"
_INSERT_CREDENTIAL = (
    "INSERT INTO credentials (id, kind, name, secret_hash, created, expires, revoked)"
    " VALUES (:id, :kind, :name, :secret_hash, :created, :expires, :revoked)"
)
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
_INSERT_CERTIFICATE = (
    "INSERT INTO certificates (token_id, serial, node, key_hash, not_before, not_after, issued, pem)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


_UPSERT_NODE = (
    "INSERT INTO nodes (name, created, certificate_serial) VALUES (?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET certificate_serial = excluded.certificate_serial"
)
_USE_TOKEN = "UPDATE tokens SET uses = uses + 1, used = ?, used_by = ? WHERE id = ?"


def _find_token(connection: sqlite3.Connection, token_id: str, secret: bytes, *, role: str) -> TokenRecord:
    row = connection.execute("SELECT * FROM tokens WHERE id = ?", (token_id,)).fetchone()
    token = _token(row) if row else None
    if not secret_matches(secret, token.secret_hash if token else _NO_HASH) or token is None:
        raise RefusedError("token-unknown", "this gateway knows no such token")
    if token.role != role:
        raise RefusedError("token-role", f"the token is for a {token.role}, and a {role} came with it")
    return token


def _standing(certificate: Any, node: str, *, connected: bool = False) -> Any:
    """The row that `_STANDING` gave, if the node may use that certificate; RefusedError otherwise."""
    if certificate is None:
        raise RefusedError("node-unknown", f"node {node} is not registered here; it has to join again")
    if certificate["serial"] is None or certificate["revoked"] is not None:
        raise RefusedError("certificate-replaced", f"node {node} joined again with another certificate since")
    if certificate["superseded"] is not None and not connected:
        raise RefusedError(
            "certificate-replaced", f"node {node} has renewed this certificate, and used the newer one since"
        )
    return certificate


def _bounds(certificate: Any) -> tuple[float, float]:
    return certificate["not_before"], certificate["not_after"]


def _current_certificate(connection: sqlite3.Connection, node: str) -> Any:
    """The row of the certificate `node` connects with; None when there is no such node."""
    return connection.execute(
        "SELECT certificates.* FROM nodes LEFT JOIN certificates ON serial = certificate_serial"
        " WHERE name = ?",
        (node,),
    ).fetchone()


def _node(row: Any) -> NodeRecord:
    return NodeRecord(
        name=row["name"],
        created=row["created"],
        last_seen=row["last_seen"],
        public_key=None if row["public_key"] is None else PublicKey(row["public_key"]),
        pod_cidrs=tuple(row["pod_cidrs"].split()),
        pod_allow=tuple(row["pod_allow"].split()),
        software=row["software"],
        certificate_serial=row["certificate_serial"],
        address=row["address"],
    )


def _gateway(row: Any) -> GatewayRecord:
    return GatewayRecord(
        name=row["name"],
        address=row["address"],
        created=row["created"],
        key_hash=row["key_hash"],
    )


def _token(row: Any) -> TokenRecord:
    pod_cidrs = tuple(row["pod_cidrs"].split())
    return TokenRecord(**{**row, "reusable": bool(row["reusable"]), "pod_cidrs": pod_cidrs})


def _certificate(row: Any) -> CertificateRecord:
    return CertificateRecord(**{name: row[name] for name in row.keys() if name != "token_id"})  # noqa: SIM118


def _columns(certificate: CertificateRecord) -> tuple[Any, ...]:
    c = certificate
    return (c.serial, c.node, c.key_hash, c.not_before, c.not_after, c.issued, c.pem)
