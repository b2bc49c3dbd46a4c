"""Asks the API server for an agent's certificate, and waits until it is signed or refused.

The request has the same name each time the same asker asks for the same key, so whoever starts again after a
crash goes on with the one that is there. Waiting needs `get` alone: a request is looked at now and then.
Old requests are removed by Kubernetes itself, an hour after they were answered or a day after they were made.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import trio

from raven.errors import PeerError, RefusedError
from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.objects import Meta
from raven.kube.resources import (
    CERTIFICATE_REQUESTS,
    CertificateSigningRequest,
    CertificateSigningRequestSpec,
)
from raven.kube.signing import ASKED_USAGES, SIGNER, request_name
from raven.pki.csr import key_hash, read_csr_untrusted

WAIT = 300.0  # seconds for an approval and a signature; whoever waits longer asks again, and goes on
SOON = 3.0  # seconds within which a gateway that leads has signed what it approves by itself
LOOK, LOOK_MAX = 0.5, 5.0  # seconds between two looks: the first, doubled each time, and the longest
_TRANSIENT = ("unreachable", "throttled", "failed")


async def request_certificate(
    client: Client,
    *,
    node: str,
    csr_pem: str,
    asker: str,
    say: Callable[[str], None],
    wait: float = WAIT,
) -> str:
    """The certificate, in PEM, that the signer made for `csr_pem`; not checked.

    `asker` tells two who ask with one key apart; `say` is told in a sentence what is waited for. RefusedError
    "denied"; PeerError "pending" or "unsigned" after `wait` seconds; KubeError for what the API server
    refuses.
    """
    own = key_hash(read_csr_untrusted(csr_pem))
    name = request_name(node, asker=asker, key_hash=own)
    request = await _made(client, name, csr_pem)
    if _key_of(request) != own:
        raise RefusedError(
            "foreign-request", f"certificate request {name} is there with another key than ours"
        )
    began, pause, told = trio.current_time(), LOOK, ""
    while not request.status.certificate:
        if request.is_denied():
            raise RefusedError("denied", f"certificate request {name} was denied: {_why(request)}")
        waiting = _waiting_for(request)
        spent = trio.current_time() - began
        if spent >= wait:
            raise PeerError(
                "unsigned" if request.is_approved() else "pending", f"after {wait:.0f} s still {waiting}"
            )
        if spent >= SOON and waiting != told:
            told = waiting
            say(waiting)
        await trio.sleep(pause)
        pause = min(pause * 2, LOOK_MAX)
        try:
            request = await client.get(CERTIFICATE_REQUESTS, name)
        except KubeError as error:
            if error.reason == "not-found":
                raise RefusedError(
                    "denied", f"certificate request {name} was deleted while it waited"
                ) from error
            if error.reason not in _TRANSIENT:
                raise
            if str(error) != told:
                told = str(error)
                say(f"waiting for the API server: {error}")
    try:
        return base64.b64decode(request.status.certificate, validate=True).decode("ascii")
    except ValueError as error:
        raise PeerError("bad-certificate", f"certificate request {name}: no certificate in it") from error


async def _made(client: Client, name: str, csr_pem: str) -> CertificateSigningRequest:
    """The request, which an earlier attempt may have left."""
    wanted = CertificateSigningRequest(
        metadata=Meta(name=name),
        spec=CertificateSigningRequestSpec(
            request=base64.b64encode(csr_pem.encode()).decode("ascii"),
            signer_name=SIGNER,
            usages=ASKED_USAGES,
        ),
    )
    try:
        return await client.create(CERTIFICATE_REQUESTS, wanted)
    except KubeError as error:
        if error.reason != "exists":
            raise
        return await client.get(CERTIFICATE_REQUESTS, name)


def _key_of(request: CertificateSigningRequest) -> bytes:
    try:
        pem = base64.b64decode(request.spec.request, validate=True).decode("ascii", "replace")
        return key_hash(read_csr_untrusted(pem))
    except (ValueError, PeerError):
        return b""


def _waiting_for(request: CertificateSigningRequest) -> str:
    name = request.metadata.name
    if request.is_approved():
        return f"waiting for a gateway to sign {name}, which is approved"
    return f"waiting for approval: kubectl certificate approve {name}"


def _why(request: CertificateSigningRequest) -> str:
    found = [one for one in request.status.conditions if one.type in ("Denied", "Failed")]
    return "; ".join(one.message or one.reason for one in found) or "no reason was given"
