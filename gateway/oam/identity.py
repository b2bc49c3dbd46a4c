"""What O&M clients prove their names with, and whether it still counts: certificates, tokens, sockets.

Turns a proof into names of `raven.oam.asker`. With Raven's own CA a certificate is an operator's, known to
the registry; a node's certificate is good for dialling in and never for asking. With the CA in
--oam-client-ca a certificate says a common name and groups, as Kubernetes reads them, and never an
operator.
"""

from __future__ import annotations

import dataclasses
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from raven import log
from raven.errors import PeerError, RefusedError, StateError
from raven.net.tls import check_operator
from raven.net.tls_stream import TLSStream
from raven.net.unix_peer import UnixPeer
from raven.oam.asker import NAMES_MAX, Asker, asker_from_address, name_untrusted
from raven.oam.heads import RequestHead
from raven.oam.refusal import Refusal
from raven.pki.access_token import token_in_credentials_untrusted
from raven.pki.token import secret_matches
from raven.registry.interface import CredentialRecord, Registry

_NO_HASH: Final = bytes(32)  # compared with when there is no such token, so that both answers take as long


class Identities:
    """The proofs that one gateway believes."""

    def __init__(
        self, registry: Registry, *, cluster: str, own_ca: bool, wall: Callable[[], float] = time.time
    ) -> None:
        """`own_ca`: the TLS entry takes certificates of Raven's CA; else those of another."""
        self._registry = registry
        self._cluster = cluster
        self._own_ca = own_ca
        self._wall = wall
        self._log = log.get("oam")

    def at_address(self, address: str, host: str) -> Asker:
        """Whoever comes from there, and has shown nothing yet."""
        return asker_from_address(address, host)

    def at_unix_socket(self, peer: UnixPeer) -> Asker:
        return Asker(address=f"unix pid {peer.pid}", names=(f"uid:{peer.uid}", f"gid:{peer.gid}"))

    def by_certificate(self, stream: TLSStream, asker: Asker) -> Asker:
        """The asker with the names of its certificate; PeerError or RefusedError when that does not count."""
        certificate: Mapping[str, Any] | None = stream.getpeercert()
        if not certificate:
            return asker
        asker = dataclasses.replace(asker, expires=ssl.cert_time_to_seconds(certificate["notAfter"]))
        if not self._own_ca:
            return dataclasses.replace(asker, names=_subject_names(certificate))
        peer = check_operator(stream, cluster=self._cluster)
        name = name_untrusted("operator", peer.identity.name)
        asker = dataclasses.replace(asker, names=(name,), credentials=(peer.serial,))
        self._check(peer.serial, "certificate")
        return asker

    def by_token(self, request: RequestHead, asker: Asker, *, for_us: bool) -> Asker:
        """The asker with the name of the access token in the head, if there is one.

        Refusal "bad-credentials", or "registry" when nobody can know. A program that cannot speak to proxies
        sends Authorization to the gateway's own pages; `for_us` tells those. Elsewhere that header is the
        target's.
        """
        values = request.values(b"proxy-authorization")
        if not values and for_us:
            values = request.values(b"authorization")
        if not values:
            return asker
        if len(values) > 1:
            raise Refusal("bad-request", "the head has credentials twice")
        try:
            token = token_in_credentials_untrusted(values[0].decode("latin-1"))
            known = self._find(token.id)
            stored = known.secret_hash if known is not None and known.kind == "token" else None
            if not secret_matches(token.secret, stored or _NO_HASH) or known is None or stored is None:
                raise RefusedError("token-unknown", "this gateway knows no such access token")
            self._check(token.id, "token")
        except Refusal:
            raise  # "registry": the token may well be good
        except RefusedError as error:
            raise Refusal("bad-credentials", str(error)) from error
        return dataclasses.replace(
            asker, names=(*asker.names, f"token:{known.name}"), credentials=(*asker.credentials, token.id)
        )

    def standing(self, asker: Asker) -> None:
        """Returns if all credentials that named the asker still count; Refusal "bad-credentials" otherwise.

        A registry that cannot be read ends nothing that goes on.
        """
        if self._wall() >= asker.expires:
            raise Refusal("bad-credentials", f"the certificate of {asker.identity} has expired")
        for credential in asker.credentials:
            try:
                self._check(credential, None)
            except Refusal as refusal:  # which is a RefusedError too
                if refusal.reason != "registry":
                    raise
            except RefusedError as error:
                raise Refusal("bad-credentials", str(error)) from error

    def _find(self, credential_id: str) -> CredentialRecord | None:
        try:
            return self._registry.credential(credential_id)
        except StateError as error:
            self._log.error("registry", why=str(error))
            raise Refusal(
                "registry", "the gateway cannot look up who you are; its log says what its registry lacks"
            ) from error

    def _check(self, credential_id: str, kind: str | None) -> None:
        known = self._find(credential_id)
        if known is None or (kind is not None and known.kind != kind):
            raise RefusedError("credential-unknown", "this gateway has not given out these credentials")
        if known.revoked is not None:
            raise RefusedError("credential-revoked", f"the {known.kind} of {known.name} was revoked")
        if self._wall() >= known.expires:
            raise RefusedError("credential-expired", f"the {known.kind} of {known.name} has expired")


def _subject_names(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The names a foreign CA vouches for; those that cannot be written down are left out."""
    kinds = {"commonName": "cert", "organizationName": "group"}
    found: list[str] = []
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key in kinds and len(found) < NAMES_MAX:
                try:
                    found.append(name_untrusted(kinds[key], value))
                except PeerError:
                    continue
    # The common name first: it is who somebody is, groups are what else.
    return tuple(sorted(found, key=lambda name: not name.startswith("cert:")))
