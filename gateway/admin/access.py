"""Giving O&M clients something to prove their name with, for `raven-gateway access`: tokens and certificates.

Works on the state directory of a gateway that runs as well as of one that does not: the registry's own
transactions keep two processes apart, and a running gateway asks the registry.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from gateway.admin.opening import opened
from raven.errors import ConfigError, PeerError, RefusedError
from raven.names import is_name
from raven.oam.asker import name_untrusted
from raven.pki.access_token import new_access_token
from raven.pki.csr import key_pem, new_key
from raven.pki.token import hash_secret
from raven.registry import files
from raven.registry.ca_rotation import load_authority, load_cluster
from raven.registry.follower_state import check_leads
from raven.registry.gateway_state import read_pin
from raven.registry.interface import AuditRecord, CredentialRecord

Random = Callable[[int], bytes]


class CredentialEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the list."""

    id: str
    kind: Literal["token", "certificate"]
    name: str  # as policies spell it: token:NAME, operator:NAME
    state: Literal["good", "expired", "revoked"]
    created: float
    expires: float


def create_access_token(
    directory: Path, name: str, *, ttl: float, now: float, random: Random = os.urandom
) -> str:
    """A new token for whoever shall be token:`name`; a secret. ConfigError for a name that cannot be one."""
    try:
        name_untrusted("token", name)
    except PeerError as error:
        raise ConfigError(str(error)) from error
    token = new_access_token(random=random)
    record = CredentialRecord(
        id=token.id,
        kind="token",
        name=name,
        secret_hash=hash_secret(token.secret),
        created=now,
        expires=now + ttl,
    )
    _remember(directory, record, now)
    return token.text()


def create_certificate(
    directory: Path, name: str, *, out: Path, ttl: float, now: float, random: Random = os.urandom
) -> list[Path]:
    """Key, certificate and CA for whoever shall be operator:`name`, as files in `out`; which they are.

    StateError when nothing can be written; then nothing is remembered.
    """
    if not is_name(name):
        raise ConfigError(f"{name!r}: expected lower-case letters, digits, dots and dashes")
    read_pin(directory, now=now)  # says in one sentence when this is no gateway's directory
    authority = load_authority(directory, load_cluster(directory))
    key = new_key(random)
    leaf = authority.issue_operator(name, key.public_key(), life=ttl, now=now, random=random)
    files.make_directory(out)
    contents = {
        f"{name}.key": key_pem(key),
        f"{name}.crt": leaf.pem.encode(),
        "ca.crt": authority.certificate_pem.encode(),
    }
    for file, content in contents.items():
        files.write(out / file, content)
    record = CredentialRecord(
        id=leaf.serial, kind="certificate", name=name, created=now, expires=leaf.not_after
    )
    _remember(directory, record, now)
    return [out / file for file in contents]


def list_credentials(directory: Path, *, now: float) -> list[CredentialEntry]:
    """Every one that is remembered, newest first."""
    with opened(directory, now=now) as registry:
        return [_entry(record, now) for record in registry.credentials()]


def revoke_credential(directory: Path, credential_id: str, *, now: float) -> str:
    """Nobody is let in with it any more, and requests under way with it end; whose it was.

    RefusedError "credential-unknown".
    """
    check_leads(directory, now=now)
    with opened(directory, now=now) as registry:
        known = registry.credential(credential_id)
        if known is None or not registry.revoke_credential(credential_id, now=now):
            raise RefusedError(
                "credential-unknown",
                f"there are no good credentials {credential_id}; `raven-gateway access list` shows all",
            )
        registry.append_audit([_audit("access-revoked", known, now)])
        return _named(known)


def _remember(directory: Path, record: CredentialRecord, now: float) -> None:
    check_leads(directory, now=now)
    with opened(directory, now=now) as registry:
        registry.add_credential(record)
        registry.append_audit([_audit("access-created", record, now)])


def _named(record: CredentialRecord) -> str:
    return f"{'token' if record.kind == 'token' else 'operator'}:{record.name}"


def _entry(record: CredentialRecord, now: float) -> CredentialEntry:
    gone: Literal["expired", "revoked"] = "revoked" if record.revoked is not None else "expired"
    return CredentialEntry(
        id=record.id,
        kind=record.kind,
        name=_named(record),
        state="good" if record.revoked is None and now < record.expires else gone,
        created=record.created,
        expires=record.expires,
    )


def _audit(event: str, record: CredentialRecord, now: float) -> AuditRecord:
    return AuditRecord(
        time=now,
        event=event,
        node="",
        asker="local",
        target=record.id,
        verdict="allowed",
        detail=_named(record),
    )
