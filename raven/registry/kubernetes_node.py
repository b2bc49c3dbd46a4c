"""A node as the cluster's registry keeps it, one object each, and what joins and renewals make of it.

Pure: values in, values out. Certificates are in the order they were issued, the newest last; they are public
parts only. The object is bounded: what a certificate that is forgotten here would prove, nobody believes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import msgspec

from raven.keys import PublicKey
from raven.pki.renewal import GRACE
from raven.registry.interface import CertificateRecord, NodeRecord
from raven.registry.rules import REMEMBER, Newest

CERTIFICATES_MAX = 8  # of one node, each 1.2 kB while it counts and 0.3 kB after: 10 kB an object at most
VOUCHED = "kubernetes"  # stands for the token where the cluster itself said who asks


class SharedCertificate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A certificate that the CA signed for the node; its text only while it counts."""

    serial: str
    key_hash: bytes
    not_before: float
    not_after: float
    issued: float
    pem: str = ""
    token: str = ""  # id of the token that it came for
    revoked: float | None = None
    superseded: float | None = None

    @classmethod
    def of(cls, record: CertificateRecord, *, token: str) -> Self:
        return cls(
            serial=record.serial,
            key_hash=record.key_hash,
            not_before=record.not_before,
            not_after=record.not_after,
            issued=record.issued,
            pem=record.pem if record.revoked is None and record.superseded is None else "",
            token=token,
            revoked=record.revoked,
            superseded=record.superseded,
        )

    def record(self, node: str) -> CertificateRecord:
        return CertificateRecord(
            serial=self.serial,
            node=node,
            key_hash=self.key_hash,
            not_before=self.not_before,
            not_after=self.not_after,
            issued=self.issued,
            pem=self.pem,
            revoked=self.revoked,
            superseded=self.superseded,
        )

    @property
    def counts(self) -> bool:
        return self.revoked is None and self.superseded is None


class SharedNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node that joined; when it was last seen every gateway knows for itself."""

    name: str
    created: float
    public_key: bytes | None = None
    pod_cidrs: tuple[str, ...] = ()
    software: str = ""
    address: str = ""
    pod_allow: tuple[str, ...] = ()
    certificates: tuple[SharedCertificate, ...] = ()

    @classmethod
    def of(cls, record: NodeRecord, certificates: Sequence[tuple[CertificateRecord, str]]) -> Self:
        """A node of another registry; its certificates with their tokens, the newest last."""
        return cls(
            name=record.name,
            created=record.created,
            public_key=None if record.public_key is None else bytes(record.public_key),
            pod_cidrs=record.pod_cidrs,
            software=record.software,
            address=record.address,
            pod_allow=record.pod_allow,
            certificates=_bounded(SharedCertificate.of(one, token=token) for one, token in certificates),
        )

    def newest(self) -> Newest:
        if not self.certificates:
            return Newest(None, "")
        last = self.certificates[-1]
        return Newest(last.record(self.name), last.token)

    def find(self, serial: str) -> CertificateRecord | None:
        found = (one.record(self.name) for one in self.certificates if one.serial == serial)
        return next(found, None)

    def has_joined_by(self, token_id: str) -> bool:
        """Whether a certificate that is remembered came for that token."""
        return any(one.token == token_id for one in self.certificates)

    def rejoined(
        self, certificate: CertificateRecord, *, token: str, pod_allow: tuple[str, ...], now: float
    ) -> Self:
        """With a new certificate and no other that counts; what the token allows replaces what was."""
        ended = (
            msgspec.structs.replace(one, revoked=now, pem="") if one.revoked is None else one
            for one in self.certificates
        )
        new = SharedCertificate.of(certificate, token=token)
        kept = _bounded((*_remembered(ended, now), new))
        return msgspec.structs.replace(self, certificates=kept, pod_allow=pod_allow or self.pod_allow)

    def renewed(self, certificate: CertificateRecord, *, shown: str, now: float) -> Self:
        """With one more certificate; that with the serial `shown` is good until the new one was used."""
        new = SharedCertificate.of(certificate, token="")
        kept = _bounded((*_remembered(self.certificates, now), new), keep=shown)
        return msgspec.structs.replace(self, certificates=kept)

    def used(self, serial: str, *, now: float) -> Self:
        """After the node has come with that certificate: those before it are superseded."""
        serials = [one.serial for one in self.certificates]
        if serial not in serials:
            return self
        older = serials.index(serial)
        changed = [
            msgspec.structs.replace(one, superseded=now, pem="") if number < older and one.counts else one
            for number, one in enumerate(self.certificates)
        ]
        return msgspec.structs.replace(self, certificates=tuple(changed))


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a node told about itself in its hello."""

    public_key: bytes | None
    pod_cidrs: tuple[str, ...]
    software: str
    address: str

    @classmethod
    def of(
        cls, public_key: PublicKey | None, pod_cidrs: Sequence[str], *, software: str, address: str
    ) -> Self:
        key = None if public_key is None else bytes(public_key)
        return cls(public_key=key, pod_cidrs=tuple(pod_cidrs), software=software, address=address)


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """What this gateway has heard of a node, and the cluster's registry may not have yet."""

    said: Said | None = None
    used: tuple[str, float] | None = None  # serial, when

    def on(self, node: SharedNode) -> SharedNode:
        if self.said is not None:
            node = msgspec.structs.replace(node, **msgspec.structs.asdict(self.said))
        if self.used is not None:
            node = node.used(self.used[0], now=self.used[1])
        return node

    def after(self, earlier: Noted | None) -> Noted:
        """Both together, this one said last."""
        if earlier is None:
            return self
        return Noted(said=self.said or earlier.said, used=self.used or earlier.used)


def _remembered(certificates: Iterable[SharedCertificate], now: float) -> list[SharedCertificate]:
    """Without those that ended so long ago that nobody asks why they are dead."""
    return [one for one in certificates if one.not_after >= now - GRACE - REMEMBER]


def _bounded(certificates: Iterable[SharedCertificate], *, keep: str = "") -> tuple[SharedCertificate, ...]:
    """At most CERTIFICATES_MAX: dead ones go first, then the oldest, never the newest or that to `keep`."""
    held = list(certificates)
    while len(held) > CERTIFICATES_MAX:
        others = [one for one in held[:-1] if one.serial != keep]
        held.remove(next((one for one in others if not one.counts), others[0]))
    return tuple(held)
