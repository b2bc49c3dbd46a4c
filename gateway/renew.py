"""Renewing a node's certificate over its tunnel, and what the times of a certificate allow.

The gateway's clock decides: a certificate that counts gets a tunnel, one that ended within the grace period
gets a tunnel that can renew it and nothing else, any other gets a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import msgspec
import trio

from gateway.join import ISSUING, certificate_record
from raven.control.messages import GatewayHello, Renewed, RenewRefused
from raven.errors import PeerError, RefusedError, StateError
from raven.net.tls import Peer
from raven.pki.ca import Authority
from raven.pki.certificate import load_leaf
from raven.pki.csr import key_hash, read_csr_untrusted
from raven.pki.renewal import GRACE, is_renewable_at, is_valid_at, renew_at
from raven.registry.interface import CertificateRecord, Registry

Random = Callable[[int], bytes]


def is_expired(peer: Peer, *, now: float) -> bool:
    """Whether the node's certificate is good for renewing it only.

    PeerError "certificate-time" when it does not count yet, RefusedError "certificate-expired" when it ended
    too long ago.
    """
    node = peer.identity.name
    if is_valid_at(now, peer.not_before, peer.not_after):
        return False
    if now < peer.not_before:
        raise PeerError(
            "certificate-time",
            f"the certificate of node {node} counts from {_date(peer.not_before)}; here it is {_date(now)}",
        )
    if not is_renewable_at(now, peer.not_before, peer.not_after):
        raise RefusedError(
            "certificate-expired",
            f"the certificate of node {node} expired on {_date(peer.not_after)}, more than"
            f" {GRACE / 86400:.0f} days ago: have a token made with `raven-gateway token create --node"
            f" {node}`, and join again with `raven-agent join --force`",
        )
    return True


def renew_in(not_before: float, not_after: float, *, now: float) -> float:
    """Seconds until the certificate should be renewed."""
    return max(0.0, renew_at(not_before, not_after) - now)


async def renew(
    csr_pem: str,
    *,
    node: str,
    serial: str,
    authority: Authority,
    registry: Registry,
    address: str,
    now: float,
    overlap: bool = False,
    random: Random = os.urandom,
) -> CertificateRecord:
    """The next certificate of `node`, which came with `serial`; on disk already.

    During the `overlap` of two CAs a certificate of the one before is always due. RefusedError as of
    `Registry.renew`, PeerError "bad-csr", StateError.
    """
    key = read_csr_untrusted(csr_pem)
    return await trio.to_thread.run_sync(
        partial(
            registry.renew,
            node=node,
            serial=serial,
            key_hash=key_hash(key),
            now=now,
            issue=lambda node: certificate_record(
                authority.issue_node(node, key, now=now, random=random), now=now
            ),
            asker=address,
            due=overlap and is_outdated(node, serial, authority=authority, registry=registry),
        ),
        limiter=ISSUING,
    )


def is_outdated(node: str, serial: str, *, authority: Authority, registry: Registry) -> bool:
    """Whether another CA than the current one has signed that certificate. StateError."""
    return any(
        record.serial == serial and record.pem and not authority.issued(load_leaf(record.pem.encode("ascii")))
        for record in registry.certificates(node)
    )


def hello_for(peer: Peer, hello: GatewayHello, *, now: float, outdated: bool) -> GatewayHello:
    """The gateway's hello to this node, whose certificate may be of the CA before."""
    return msgspec.structs.replace(
        hello,
        now=now,
        renew_in=0.0 if outdated else renew_in(peer.not_before, peer.not_after, now=now),
        renew_only=is_expired(peer, now=now),
    )


def granted(certificate: CertificateRecord, *, now: float) -> Renewed:
    wait = renew_in(certificate.not_before, certificate.not_after, now=now)
    return Renewed(certificate_pem=certificate.pem, renew_in=wait)


def refused(error: PeerError | RefusedError | StateError) -> RenewRefused:
    if isinstance(error, StateError):  # names files of ours
        return RenewRefused(
            reason="unavailable", message="the gateway cannot store anything at the moment; its log says why"
        )
    return RenewRefused(reason=error.reason, message=str(error))


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
