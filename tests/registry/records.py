"""Tokens, nodes, certificates and CAs for the tests of registries."""

from raven.keys import PublicKey
from raven.pki.ca import Authority
from raven.pki.csr import new_key
from raven.pki.renewal import LEAF_LIFE
from raven.pki.token import hash_secret
from raven.registry import shared_ca
from raven.registry.interface import AuditRecord, CertificateRecord, Issue, Registry, TokenRecord
from raven.registry.shared_ca import SharedCa
from tests.pki.material import seeded

NOW = 1_800_000_000.0
SECRET = b"s" * 24
KEY = b"k" * 32
WG = PublicKey(bytes(range(32)))


def token(
    token_id: str = "tok", *, node: str | None = None, reusable: bool = False, expires: float = NOW + 3600
) -> TokenRecord:
    return TokenRecord(
        id=token_id,
        secret_hash=hash_secret(SECRET),
        node=node,
        reusable=reusable,
        created=NOW,
        expires=expires,
    )


def issuing(serial: str, *, key_hash: bytes = KEY, now: float = NOW) -> Issue:
    def issue(node: str) -> CertificateRecord:
        return CertificateRecord(
            serial=serial,
            node=node,
            key_hash=key_hash,
            not_before=now,
            not_after=now + LEAF_LIFE,
            issued=now,
            pem=f"pem {serial}",
        )

    return issue


def enrol(
    registry: Registry,
    node: str,
    serial: str,
    *,
    token_id: str = "tok",
    secret: bytes = SECRET,
    key_hash: bytes = KEY,
    now: float = NOW,
) -> CertificateRecord:
    return registry.enrol(
        token_id=token_id,
        secret=secret,
        node=node,
        key_hash=key_hash,
        now=now,
        issue=issuing(serial, key_hash=key_hash, now=now),
        asker="192.0.2.7:1",
    )


def audit(number: int, target: str = "t") -> AuditRecord:
    return AuditRecord(
        time=NOW + number, event="connect", node="a", asker="b", target=target, verdict="allowed"
    )


def shared(*, seed: int = 0, cluster: str = "test") -> SharedCa:
    random = seeded(seed)
    return shared_ca.shared_from(Authority.create(cluster, new_key(random), now=NOW, random=random))
