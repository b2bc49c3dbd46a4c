"""Rows of registry.sqlite and the records they are: the only place that turns one into the other."""

from __future__ import annotations

from typing import Any

from raven.keys import PublicKey
from raven.registry.interface import CertificateRecord, GatewayRecord, NodeRecord, TokenRecord

INSERT_CERTIFICATE = (
    "INSERT INTO certificates (token_id, serial, node, key_hash, not_before, not_after, issued, pem)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_TOKEN = (
    "INSERT INTO tokens (id, secret_hash, node, reusable, created, expires, pod_cidrs, role)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_CREDENTIAL = (
    "INSERT INTO credentials (id, kind, name, secret_hash, created, expires, revoked)"
    " VALUES (:id, :kind, :name, :secret_hash, :created, :expires, :revoked)"
)


def read_node(row: Any) -> NodeRecord:
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


def read_gateway(row: Any) -> GatewayRecord:
    return GatewayRecord(
        name=row["name"],
        address=row["address"],
        created=row["created"],
        key_hash=row["key_hash"],
    )


def read_token(row: Any) -> TokenRecord:
    pod_cidrs = tuple(row["pod_cidrs"].split())
    return TokenRecord(**{**row, "reusable": bool(row["reusable"]), "pod_cidrs": pod_cidrs})


def token_columns(token: TokenRecord) -> tuple[Any, ...]:
    """For `INSERT_TOKEN`; one that is new."""
    t = token
    cidrs = " ".join(t.pod_cidrs)
    return (t.id, t.secret_hash, t.node, t.reusable, t.created, t.expires, cidrs, t.role)


def read_certificate(row: Any) -> CertificateRecord:
    # A sqlite3.Row is iterated by its values: the names are what `keys` gives.
    return CertificateRecord(**{name: row[name] for name in row.keys() if name != "token_id"})  # noqa: SIM118


def certificate_columns(certificate: CertificateRecord) -> tuple[Any, ...]:
    """For `INSERT_CERTIFICATE`, after the id of its token."""
    c = certificate
    return (c.serial, c.node, c.key_hash, c.not_before, c.not_after, c.issued, c.pem)
