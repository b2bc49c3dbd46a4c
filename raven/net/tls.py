"""TLS of the stream lane: the three contexts, and who the other end is.

TLS 1.3 only, chains end at the cluster's own CA, and the identity is the URI in the certificate; host names
are not checked because gateways move between addresses. No cryptography import here: the running agent
reads what OpenSSL verified through `getpeercert()`. The context decides whether the chain holds;
`check_node` and `check_gateway` decide whether the peer is the right kind of peer, and every connection
must pass one of them. Nobody here looks at a clock: who has a `Peer` judges its times (raven.pki.renewal).
"""

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from raven.errors import PeerError, StateError
from raven.pki.identity import Identity, Role, identity_among_untrusted

_PEM_END = "-----END CERTIFICATE-----"

STREAM_ALPN = "raven/1"
JOIN_ALPN = "raven-join/1"
# The server name of those who know no CA yet; it ends like every other, for balancers that choose by it.
JOIN_NAME = "join.raven"
FOLLOW_ALPN = "raven-follow/1"  # of a gateway that follows another one


class Credentials(Protocol):
    """The files an end authenticates with; GatewayState and AgentState of `raven.registry` are."""

    @property
    def certificate(self) -> Path: ...
    @property
    def key(self) -> Path: ...
    @property
    def ca(self) -> Path: ...


class TlsEnd(Protocol):
    """What is asked of a TLS connection: ssl.SSLObject, ssl.SSLSocket and trio.SSLStream all answer."""

    def getpeercert(self) -> Any: ...
    def selected_alpn_protocol(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Files:
    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """The verified other end of a connection."""

    identity: Identity
    serial: str  # of its certificate: upper-case hexadecimal, no leading zeros beyond whole bytes
    not_before: float  # Unix seconds
    not_after: float


# X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h; the ssl module has no name for it.
_NO_CHECK_TIME = 0x200000


def ca_label(ca_pem: str) -> str:
    """The server name by which an agent says which CA it knows; `ca_pem` may have older ones behind it."""
    first = ca_pem[: ca_pem.index(_PEM_END) + len(_PEM_END)]
    return f"{hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()[:32]}.raven"


def choose_by_ca(context: ssl.SSLContext, others: Mapping[str, ssl.SSLContext]) -> None:
    """Connections to `context` whose agent says one of these `ca_label`s go on with that context."""

    def choose(end: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None and name in others:
            end.context = others[name]

    context.sni_callback = choose


def gateway_context(credentials: Credentials) -> ssl.SSLContext:
    """For the agents' listener: a certificate is verified if shown, since those who join have none yet.

    Whoever accepts a connection asks `alpn` first, then `check_node` unless it is a join, and judges the
    times of the certificate. StateError when the credentials cannot be loaded.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, [STREAM_ALPN, JOIN_ALPN, FOLLOW_ALPN])
    _load(context, credentials)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= _NO_CHECK_TIME
    # A ticket would let a node whose certificate was withdrawn come back without showing it.
    context.num_tickets = 0
    return context


def agent_context(credentials: Credentials) -> ssl.SSLContext:
    """For the agent's dialling: shows the node's certificate, wants a chain to the pinned CA at any time.

    Whoever dials judges the times by what the gateway tells. StateError when the credentials cannot be
    loaded.
    """
    context = _dialling_context(credentials, STREAM_ALPN)
    context.verify_flags |= _NO_CHECK_TIME
    return context


def follower_context(credentials: Credentials) -> ssl.SSLContext:
    """For a gateway's dialling of the one it follows; both keep the time. StateError as above."""
    return _dialling_context(credentials, FOLLOW_ALPN)


def oam_context(certificate: Path, key: Path, client_ca: Path, *, strict: bool) -> ssl.SSLContext:
    """For the O&M entry that speaks TLS: a client's certificate is verified if shown, at this clock's time.

    `strict` for our own CA, which keeps RFC 5280 to the letter; others leave out what was never missed.
    StateError when a file cannot be loaded.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, ["http/1.1"])
    if not strict:
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    _load(context, _Files(certificate, key, client_ca))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a ticket would let in who was revoked meanwhile
    return context


def kubelet_context(certificate: Path, key: Path, kubelet_ca: Path) -> ssl.SSLContext:
    """For dialling kubelets: shows a certificate, wants a chain to their CA and a name, at this clock's time.

    StateError when a file cannot be loaded.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, ["http/1.1"])
    context.verify_flags &= (
        ~ssl.VerifyFlags.VERIFY_X509_STRICT
    )  # clusters' CAs leave out what was never missed
    _load(context, _Files(certificate, key, kubelet_ca))
    return context


def join_context() -> ssl.SSLContext:
    """For first contact: verifies nothing, because there is nothing yet to verify with.

    `raven.net.joining` compares the CA with the token's pin, and the certificate of the connection with
    the CA, before it says anything.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, [JOIN_ALPN])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def alpn(end: TlsEnd) -> str:
    """The protocol both ends agreed on; PeerError "wrong-alpn" where there is none."""
    name = end.selected_alpn_protocol()
    if name not in (STREAM_ALPN, JOIN_ALPN, FOLLOW_ALPN):
        raise PeerError("wrong-alpn", f"the other end speaks neither {STREAM_ALPN} nor {JOIN_ALPN}")
    return name


def peer_identity(end: TlsEnd) -> Identity:
    """Who the verified certificate of the other end names; PeerError "no-certificate" or "bad-identity"."""
    return _peer_untrusted(end.getpeercert()).identity


def check_node(end: TlsEnd, *, cluster: str) -> Peer:
    """The node of `cluster` at the other end.

    PeerError "no-certificate", "bad-identity", "wrong-cluster", or "wrong-role" for a certificate that
    is not a node's.
    """
    return _check(end, cluster, Role.NODE)


def check_gateway(end: TlsEnd, *, cluster: str) -> Peer:
    """The gateway of `cluster` at the other end; PeerError as in `check_node`."""
    return _check(end, cluster, Role.GATEWAY)


def check_operator(end: TlsEnd, *, cluster: str) -> Peer:
    """The operator of `cluster` at the other end; PeerError as in `check_node`."""
    return _check(end, cluster, Role.OPERATOR)


def handshake_problem(error: BaseException) -> str:
    """A sentence for a failed handshake, found along the chain of causes of `error`."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return _VERIFY_SENTENCES.get(
                seen.verify_code, f"the certificate does not verify: {seen.verify_message}"
            )
        if isinstance(seen, ssl.SSLZeroReturnError):  # how an OpenSSL that ignores cuts says "hung up"
            return _ALERT_SENTENCES["UNEXPECTED_EOF_WHILE_READING"]
        if isinstance(seen, ssl.SSLError):
            return _ALERT_SENTENCES.get(seen.reason or "", f"TLS failed: {seen.reason or seen}")
        seen = seen.__cause__ or seen.__context__
    return f"the connection broke during the TLS handshake: {error or type(error).__name__}"


# X509_V_ERR_*, openssl/x509_vfy.h.
_VERIFY_SENTENCES = {
    18: "the certificate is its own issuer, not the cluster's CA",
    19: "the certificate comes from another cluster's CA",
    20: "the certificate comes from another cluster's CA",
    21: "the certificate comes from another cluster's CA",
    26: "the certificate is for the other role: a node cannot be a gateway, nor a gateway a node",
}
_ALERT_SENTENCES = {
    "WRONG_VERSION_NUMBER": "the other end does not speak TLS",
    "UNEXPECTED_EOF_WHILE_READING": "the other end hung up during the TLS handshake",
    "HTTP_REQUEST": "the other end speaks HTTP, not TLS",
    "UNSUPPORTED_PROTOCOL": "the other end does not speak TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other end does not speak TLS 1.3",
    "TLSV1_ALERT_UNKNOWN_CA": "the other end does not know the CA of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other end finds our certificate unusable",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other end has to show a certificate, and did not",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other end asks for a certificate",
}


def _dialling_context(credentials: Credentials, alpn: str) -> ssl.SSLContext:
    context = _context(ssl.PROTOCOL_TLS_CLIENT, [alpn])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, credentials)
    return context


def _context(protocol: int, alpns: list[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT  # RFC 5280 to the letter; our CA keeps to it
    context.set_alpn_protocols(alpns)
    return context


def _load(context: ssl.SSLContext, credentials: Credentials) -> None:
    try:
        context.load_verify_locations(cafile=credentials.ca)
    except (OSError, ssl.SSLError) as error:
        raise StateError(f"{credentials.ca}: not a readable CA certificate: {error}") from error
    try:
        # Without a password of ours OpenSSL would ask the terminal for one when the key is encrypted.
        context.load_cert_chain(credentials.certificate, credentials.key, password="")
    except (OSError, ssl.SSLError) as error:
        files = f"{credentials.certificate} and {credentials.key}"
        raise StateError(f"{files}: not a certificate and its key: {error}") from error


def _peer_untrusted(decoded: Mapping[str, Any] | None) -> Peer:
    """The peer in what getpeercert() decoded; `None` and `{}` are its ways to say there is no certificate."""
    if not decoded:
        raise PeerError("no-certificate", "the peer showed no certificate; join the cluster first")
    names = decoded.get("subjectAltName", ())
    identity = identity_among_untrusted(value for kind, value in names if kind == "URI")
    not_before, not_after = (ssl.cert_time_to_seconds(decoded[name]) for name in ("notBefore", "notAfter"))
    return Peer(identity, decoded["serialNumber"], float(not_before), float(not_after))


def _check(end: TlsEnd, cluster: str, role: Role) -> Peer:
    peer = _peer_untrusted(end.getpeercert())
    if peer.identity.cluster != cluster:
        raise PeerError("wrong-cluster", f"the peer is {peer.identity}, of another cluster than {cluster}")
    if peer.identity.role is not role:
        raise PeerError("wrong-role", f"the peer is {peer.identity}, expected a {role}")
    return peer
