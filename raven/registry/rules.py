"""Who may join, who may renew, who may connect: the rules that every registry keeps.

Plain functions of what a registry holds; it calls them inside the transaction, or between the reading and the
conditional writing, that makes them true. Nothing here stores or signs.
"""

from __future__ import annotations

from dataclasses import dataclass

from raven.errors import RefusedError
from raven.pki.renewal import renew_at
from raven.pki.token import secret_matches
from raven.registry.interface import CertificateRecord, TokenRecord

RENEW_EARLY = 3600.0  # seconds before it is due; an agent counts on another clock, and spreads
RENEW_OFTEN = 600.0  # seconds between two renewals of a node: what a broken one can fill the disk with
REMEMBER = 30 * 86400.0  # seconds a dead token or certificate is kept, so that its user hears why it is dead

_NO_HASH = bytes(32)  # compared with when there is no such token, so that both answers take as long


@dataclass(frozen=True, slots=True)
class Newest:
    """What a node that is there got last."""

    certificate: CertificateRecord | None  # None: so old that its record was pruned
    token_id: str  # of the token that it came for; "" for a renewal


def check_token(token: TokenRecord | None, secret: bytes, *, role: str) -> TokenRecord:
    """The token, if the secret is its own and it is for a `role`; RefusedError."""
    if not secret_matches(secret, token.secret_hash if token else _NO_HASH) or token is None:
        raise RefusedError("token-unknown", "this gateway knows no such token")
    if token.role != role:
        raise RefusedError("token-role", f"the token is for a {token.role}, and a {role} came with it")
    return token


def check_age(token: TokenRecord, *, now: float) -> None:
    if now >= token.expires:
        raise RefusedError("token-expired", "the token has expired; have a new one made")


def judge_join(
    token: TokenRecord,
    newest: Newest | None,
    *,
    node: str,
    key_hash: bytes,
    now: float,
    redeemed: bool = False,
) -> CertificateRecord | None:
    """The certificate that a repeated join has got already; None when one is to be issued.

    `newest` is None where there is no such node yet. `redeemed` says that this very node and key have spent
    the token before, and the end of that was lost. RefusedError as of `Registry.enrol`.
    """
    check_age(token, now=now)
    earlier = newest.certificate if newest is not None else None
    if newest is not None and earlier is not None:
        same = newest.token_id == token.id and earlier.key_hash == key_hash
        if same and now < renew_at(earlier.not_before, earlier.not_after):
            return earlier
    if token.node is not None and token.node != node:
        raise RefusedError("token-node", f"the token is for another node than {node}")
    if token.uses and not token.reusable and not redeemed:
        raise RefusedError("token-used", "the token has been used; have a new one made")
    if newest is not None and token.node is None:
        raise RefusedError(
            "node-taken",
            f"a node {node} has joined already; choose another name, or have a token made with --node {node}",
        )
    return None


def judge_renewal(
    shown: CertificateRecord,
    newest: CertificateRecord,
    *,
    node: str,
    key_hash: bytes,
    now: float,
    due: bool,
) -> CertificateRecord | None:
    """The certificate that a repeated renewal has got already; None when one is to be issued.

    `shown` is good (`check_standing`). RefusedError as of `Registry.renew`.
    """
    asked_before = newest.serial != shown.serial
    same = newest.key_hash == key_hash and now < renew_at(newest.not_before, newest.not_after)
    # The answer was late or lost, or the node could not put it in place. Over the tunnel that asked it shows
    # the newest already.
    if same and (asked_before or not due):
        return newest
    if asked_before and now < newest.issued + RENEW_OFTEN:
        raise RefusedError("renew-often", f"node {node} has renewed its certificate just now")
    if not due and now < renew_at(shown.not_before, shown.not_after) - RENEW_EARLY:
        raise RefusedError("renew-early", f"the certificate of node {node} is not due yet")
    return None


def check_standing(
    certificate: CertificateRecord | None, *, node: str, known: bool, connected: bool = False
) -> CertificateRecord:
    """The certificate, if the node may use it; `known` says whether there is such a node.

    A tunnel outlives that its certificate was renewed, but not that it was revoked. RefusedError.
    """
    if not known:
        # A gateway that follows another one has heard of it a second later.
        raise RefusedError(
            "node-unknown",
            f"node {node} is not registered here; unless it joined a moment ago, it has to join again",
        )
    if certificate is None or certificate.revoked is not None:
        raise RefusedError("certificate-replaced", f"node {node} joined again with another certificate since")
    if certificate.superseded is not None and not connected:
        raise RefusedError(
            "certificate-replaced", f"node {node} has renewed this certificate, and used the newer one since"
        )
    return certificate
