"""The gateway's end of a join: shows its CA, takes a token and a key, hands out a certificate.

Above it the tunnel server, which accepted a TLS connection with ALPN raven-join/1; below it the CA and the
registry. It never raises for what the other end does: each ending is a JoinResult to count and log.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from raven.config import parse_dial
from raven.control.messages import JoinAccepted, JoinHello, JoinMessage, JoinRefused, JoinRequest
from raven.errors import PeerError, RavenError, RefusedError, StateError
from raven.net.join_channel import STEP_TIMEOUT, JoinChannel
from raven.pki.ca import Authority
from raven.pki.certificate import Leaf
from raven.pki.csr import key_hash, read_csr_untrusted
from raven.pki.token import JoinToken, parse_token_untrusted
from raven.registry.interface import AuditRecord, CertificateRecord, Registry
from raven.registry.sqlite import SqliteRegistry

Random = Callable[[int], bytes]

_Enrol = Callable[[JoinRequest, JoinToken, str, float], str]  # asker, now; the certificate in PEM

ACCEPTED = "accepted"

# Joins and renewals at a time. They may wait for an API server that is away, and may not take the threads
# with which tunnels that are up note what their nodes say.
ISSUING = trio.CapacityLimiter(8)

LINGER = 2.0  # seconds the other end gets to read why it was refused
LINGER_READS = 32  # of 64 KiB, the most that it can have sent ahead


@dataclass(frozen=True, slots=True)
class JoinResult:
    """How one join ended."""

    verdict: str  # "accepted", or the constant word of the failure, for counters
    message: str  # a sentence
    node: str = ""  # the name asked for, "" when it never got that far
    role: str = "node"  # or "gateway", what that name is of


class Enroller(Protocol):
    """Who hands out certificates for tokens: this gateway's CA, or that of the gateway it follows."""

    @property
    def ca_pem(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    async def enrol(self, request: JoinRequest, *, asker: str, now: float) -> str:
        """The certificate in PEM, on disk already. RefusedError, PeerError, StateError."""
        ...


async def serve_join(
    stream: trio.abc.Stream,
    *,
    enroller: Enroller,
    gateways: Sequence[str],
    peer: str,
    shown: str = "",
    now: Callable[[], float] = time.time,
    step_timeout: float = STEP_TIMEOUT,
) -> JoinResult:
    """Serves one join over `stream` (TLS, handshake done) and closes it.

    `gateways` are the HOST:PORTs the agent shall dial; `peer` is the address for the audit. `shown` is the CA
    whose certificate this connection has, where that is not `authority`: it is what the other end asked for.
    """
    request: JoinMessage | None = None
    try:
        channel = JoinChannel(stream, step_timeout=step_timeout)
        await channel.send(
            JoinHello(
                ca_pem=shown or enroller.ca_pem,
                cluster=enroller.cluster,
                now=now(),
                seen_as=peer,
            )
        )
        try:
            request = await channel.receive()
            if not isinstance(request, JoinRequest):
                raise RefusedError("bad-request", "a join begins with a join-request")
            certificate_pem = await enroller.enrol(request, asker=peer, now=now())
        except (PeerError, RefusedError, StateError) as error:
            await _refuse(channel, stream, error)
            return JoinResult(_reason(error), str(error), _node(request))
        await channel.send(
            JoinAccepted(
                certificate_pem=certificate_pem,
                ca_pem=enroller.ca_pem,
                cluster=enroller.cluster,
                gateways=list(gateways),
            )
        )
        return JoinResult(ACCEPTED, "", request.node, request.role)
    except PeerError as error:
        return JoinResult(error.reason, str(error), _node(request))
    finally:
        with trio.move_on_after(step_timeout):  # a peer that stopped reading may not keep us closing
            await stream.aclose()


@dataclass(frozen=True, slots=True)
class OwnEnroller:
    """The CA and the registry of this gateway."""

    authority: Authority
    registry: Registry
    random: Random = os.urandom

    @property
    def ca_pem(self) -> str:
        return self.authority.certificate_pem

    @property
    def cluster(self) -> str:
        return self.authority.cluster

    async def enrol(self, request: JoinRequest, *, asker: str, now: float) -> str:
        """As `Enroller` promises; in a thread, because it waits for the disk, or for an API server."""
        enrol = self._enrol_gateway if request.role == "gateway" else self._enrol_node
        return await trio.to_thread.run_sync(
            partial(self._enrol, enrol, request, asker, now), limiter=ISSUING
        )

    def _enrol(
        self,
        enrol: _Enrol,
        request: JoinRequest,
        asker: str,
        now: float,
    ) -> str:
        token = parse_token_untrusted(request.token)
        try:
            return enrol(request, token, asker, now)
        except RefusedError as error:
            # Anybody can present a token we never made. The audit is bounded, and strangers must not be able
            # to wash out of it what matters.
            if error.reason != "token-unknown":
                record = AuditRecord(
                    time=now,
                    event="join",
                    node=request.node,
                    asker=asker,
                    target=token.id,
                    verdict=error.reason,
                )
                self.registry.append_audit([record])
            raise

    def _enrol_node(self, request: JoinRequest, token: JoinToken, asker: str, now: float) -> str:
        key = read_csr_untrusted(request.csr_pem)
        return self.registry.enrol(
            token_id=token.id,
            secret=token.secret,
            node=request.node,
            key_hash=key_hash(key),
            now=now,
            issue=lambda node: certificate_record(
                self.authority.issue_node(node, key, now=now, random=self.random), now=now
            ),
            asker=asker,
        ).pem

    def _enrol_gateway(self, request: JoinRequest, token: JoinToken, asker: str, now: float) -> str:
        if not isinstance(self.registry, SqliteRegistry):
            raise RefusedError("no-followers", "gateways of this cluster share its registry, and do not join")
        key = read_csr_untrusted(request.csr_pem)
        try:
            host = parse_dial(request.address).host
            leaf = self.authority.issue_gateway(request.node, key, hosts=[host], now=now, random=self.random)
        except ValueError as error:
            raise RefusedError(
                "bad-address", f"agents cannot dial a gateway at {request.address!r}: {error}"
            ) from error
        self.registry.enrol_gateway(
            token_id=token.id,
            secret=token.secret,
            name=request.node,
            address=request.address,
            key_hash=key_hash(key),
            now=now,
            asker=asker,
        )
        return leaf.pem


def certificate_record(leaf: Leaf, *, now: float) -> CertificateRecord:
    """What the registry remembers of a certificate issued `now`."""
    return CertificateRecord(
        serial=leaf.serial,
        node=leaf.identity.name,
        key_hash=leaf.key_hash,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        issued=now,
        pem=leaf.pem,
    )


async def _refuse(channel: JoinChannel, stream: trio.abc.Stream, error: RavenError) -> None:
    """Tells the other end why, as far as it still listens."""
    message = str(error)
    if isinstance(error, StateError):  # names files of ours, which are no stranger's business
        message = "the gateway cannot store anything at the moment; its log says why"
    with contextlib.suppress(PeerError):
        await channel.send(JoinRefused(reason=_reason(error), message=message))
        # What it may still be sending has to be read, or closing resets the connection before it has read us.
        with trio.move_on_after(LINGER), contextlib.suppress(trio.BrokenResourceError, OSError):
            for _ in range(LINGER_READS):
                if not await stream.receive_some(1 << 16):
                    break


def _reason(error: RavenError) -> str:
    return error.reason if isinstance(error, PeerError | RefusedError) else "unavailable"


def _node(request: JoinMessage | None) -> str:
    return request.node if isinstance(request, JoinRequest) else ""
