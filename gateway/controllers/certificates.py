"""Approves and signs certificate requests for `raven.openyurt.io/agent`: the name decides, not the shape.

A kubelet's identity may ask for its own node, and a bootstrap token for the node it was made for. Whatever
else they ask for is denied. What anybody else asks for waits for an administrator, whose approval counts; it
still has to be a node's name and nothing more.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec

from raven.errors import PeerError, RefusedError
from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.objects import Condition, timestamp
from raven.kube.resources import CERTIFICATE_REQUESTS, SECRETS, CertificateSigningRequest, Secret
from raven.kube.signing import (
    ALLOWED_USAGES,
    NODE_ANNOTATION,
    NODE_GROUP,
    NODE_USER,
    SIGNER,
    TOKEN_GROUP,
    TOKEN_USER,
)
from raven.names import is_cluster, is_name
from raven.pki.csr import requested_name_untrusted
from raven.pki.identity import node_identity

_TOKEN_SECRET, _TOKEN_TYPE = "bootstrap-token-", "bootstrap.kubernetes.io/token"
_TOKEN_NAMESPACE = "kube-system"
_SIGNED_MAX = 256  # certificates remembered; of the last seconds they matter


class Verdict(NamedTuple):
    """What becomes of a request."""

    what: str  # approve, deny or wait
    message: str
    node: str = ""


Sign = Callable[[str, str, str], Awaitable[str]]  # node, request in PEM, who asked: the certificate in PEM


def token_of(request: CertificateSigningRequest) -> str:
    """The id of the bootstrap token that made the request; "" where none did."""
    spec = request.spec
    if spec.username.startswith(TOKEN_USER) and TOKEN_GROUP in spec.groups:
        return spec.username.removeprefix(TOKEN_USER)
    return ""


def judge(
    request: CertificateSigningRequest, *, cluster: str, token: Secret | None, readable: bool = True
) -> Verdict:
    """Whether who asked may have what is asked for; `token` is the bootstrap token's Secret, if one asked,
    and not `readable` says that we may not look at it.
    """
    spec = request.spec
    usages = set(spec.usages)
    if not usages <= ALLOWED_USAGES or "client auth" not in usages:
        return Verdict("deny", f"usages {', '.join(sorted(usages))}: expected client auth and what it needs")
    try:
        node = requested_name_untrusted(request_pem(request), lambda name: _uri(cluster, name))
    except PeerError as error:
        return Verdict("deny", str(error))
    if not is_name(node):
        return Verdict("deny", f"{node[:64]!r} is no node's name")
    if spec.username.startswith(NODE_USER) and NODE_GROUP in spec.groups:
        own = spec.username.removeprefix(NODE_USER)
        if own == node:
            return Verdict("approve", f"node {own} asks for its own name", node)
        return Verdict("deny", f"node {own} may not have the name {node}")
    if (token_id := token_of(request)) and readable:
        bound = _bound(token)
        if not bound:
            return Verdict("deny", f"bootstrap token {token_id} lacks the annotation {NODE_ANNOTATION}")
        if bound == node:
            return Verdict("approve", f"bootstrap token {token_id} is for node {node}", node)
        return Verdict("deny", f"bootstrap token {token_id} is for node {bound}, not for {node}")
    return Verdict(
        "wait", f"{spec.username} asks for node {node}: an administrator has to approve that", node
    )


def request_pem(request: CertificateSigningRequest) -> str:
    try:
        return base64.b64decode(request.spec.request, validate=True).decode("ascii", "replace")
    except ValueError:
        return ""


def _uri(cluster: str, name: str) -> str:
    return node_identity(cluster, name).uri if is_name(name) and is_cluster(cluster) else ""


def _bound(token: Secret | None) -> str:
    if token is None or token.type != _TOKEN_TYPE:
        return ""
    return token.metadata.annotations.get(NODE_ANNOTATION, "")


class CertificateReconciler:
    """Takes a request from pending to signed, or to refused. `sign` registers the node, too."""

    def __init__(
        self,
        client: Client,
        requests: Mapping[str, CertificateSigningRequest],
        *,
        cluster: str,
        sign: Sign,
        wall: Callable[[], float],
    ) -> None:
        self._client, self._requests, self._cluster = client, requests, cluster
        self._sign, self._wall = sign, wall
        # What was signed, by the request's uid, newest last: a request is looked at again before the watch
        # has brought its certificate, and another one would end that.
        self._signed: dict[str, str] = {}

    async def __call__(self, name: str) -> str:
        """What was done, for an Event; "" for nothing."""
        request = self._requests.get(name)
        if request is None or request.spec.signer_name != SIGNER:
            return ""
        if request.status.certificate or request.is_denied():
            return ""
        token, unreadable = None, None
        try:
            token = await self._token(request)
        except KubeError as error:
            unreadable = error  # what asks for too much is denied all the same
        verdict = judge(request, cluster=self._cluster, token=token, readable=unreadable is None)
        if verdict.what == "deny":
            # Even what somebody approved: a second name in it would be signed for nobody knows whom.
            type, sub = ("Failed", "status") if request.is_approved() else ("Denied", "approval")
            await self._patch(request, type, "NotEntitled", verdict.message, sub)
            return verdict.message
        if not request.is_approved():
            if unreadable is not None:
                raise unreadable  # looked at again later: the right may be given, or an approval
            if verdict.what == "wait":
                return verdict.message
            request = await self._patch(request, "Approved", "NameIsTheAskers", verdict.message, "approval")
        try:
            pem = await self._signed_once(verdict.node, request)
        except (PeerError, RefusedError) as error:
            await self._patch(request, "Failed", "NotSigned", str(error), "status")
            return str(error)
        certificate = base64.b64encode(pem.encode("ascii")).decode("ascii")
        status = msgspec.structs.replace(request.status, certificate=certificate)
        signed = msgspec.structs.replace(request, status=status)
        await self._client.patch(CERTIFICATE_REQUESTS, request, signed, subresource="status")
        return f"signed for node {verdict.node}"

    async def _signed_once(self, node: str, request: CertificateSigningRequest) -> str:
        uid = request.metadata.uid
        if (pem := self._signed.get(uid)) is None:
            pem = self._signed[uid] = await self._sign(node, request_pem(request), request.spec.username)
            if len(self._signed) > _SIGNED_MAX:
                del self._signed[next(iter(self._signed))]
        return pem

    async def _token(self, request: CertificateSigningRequest) -> Secret | None:
        """The Secret of the bootstrap token that asked; no other Secret is ever read."""
        token_id = token_of(request)
        if not (token_id.isascii() and token_id.isalnum()):
            return None
        try:
            return await self._client.get(SECRETS, _TOKEN_SECRET + token_id, namespace=_TOKEN_NAMESPACE)
        except KubeError as error:
            if error.reason == "not-found":
                return None
            raise

    async def _patch(
        self, request: CertificateSigningRequest, type: str, reason: str, message: str, subresource: str
    ) -> CertificateSigningRequest:
        now = timestamp(self._wall())
        condition = Condition(
            type=type, status="True", reason=reason, message=message, last_transition_time=now
        )
        conditions = (*request.status.conditions, condition)
        status = msgspec.structs.replace(request.status, conditions=conditions)
        changed = msgspec.structs.replace(request, status=status)
        return await self._client.patch(CERTIFICATE_REQUESTS, request, changed, subresource=subresource)
