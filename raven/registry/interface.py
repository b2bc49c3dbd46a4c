"""What a registry remembers, and the protocol every registry speaks.

Nodes, join tokens, issued certificates, audit. `sqlite` is the embedded one. All calls are synchronous:
reads take well under a millisecond; those that promise durability wait for the disk and belong into
`trio.to_thread.run_sync`. Times are Unix seconds from the caller's wall clock. Every call raises StateError
when the store fails; what was remembered before stays readable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from raven.keys import PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node that joined."""

    name: str
    created: float  # wall seconds of its first join
    last_seen: float | None  # wall seconds; None: joined, and never connected since
    public_key: PublicKey | None  # its WireGuard key as last offered; None: never brought packets
    pod_cidrs: tuple[str, ...]
    software: str  # "" until its first AgentHello
    certificate_serial: str  # of the newest; spelled as in `raven.net.tls.Peer.serial`
    address: str = ""  # its own, as last told; "" for none
    pod_allow: tuple[str, ...] = ()  # ranges that its pod networks may lie in, beside those for all nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRecord:
    """A gateway of the cluster."""

    name: str
    address: str  # HOST:PORT that agents dial
    created: float  # wall seconds when it came to be known
    key_hash: bytes | None = None  # SHA-256 of its SubjectPublicKeyInfo; None where the CA is, and in copies


@dataclass(frozen=True, slots=True)
class KnownGateways:
    """The gateways agents shall keep tunnels to."""

    revision: int  # grows with every change, also over a registry that was set back to an earlier state
    gateways: tuple[GatewayRecord, ...]  # in the order they came


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A join token without its secret."""

    id: str
    secret_hash: bytes = field(repr=False)  # SHA-256 of the secret
    node: str | None  # the only node it serves, and may replace; None: any name that is free
    reusable: bool
    created: float
    expires: float
    uses: int = 0
    used: float | None = None  # wall seconds of the last use
    used_by: str | None = None  # node of the last use
    role: str = "node"  # what its holder becomes: a node, or a "gateway"
    pod_cidrs: tuple[str, ...] = ()  # what the node that joins with it may carry


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """A certificate the CA signed for a node."""

    serial: str
    node: str
    key_hash: bytes  # SHA-256 of the SubjectPublicKeyInfo
    not_before: float
    not_after: float
    issued: float
    pem: str
    revoked: float | None = None  # wall seconds; replaced by a later join, or its node was removed
    superseded: float | None = None  # wall seconds; the node renewed it and has come with the newer one since


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One line of the audit: who wanted what of which node, and what came of it."""

    time: float
    event: str  # constant word: connect, http, join, token-created, ...
    node: str  # "" where no node is concerned
    asker: str  # who asked: an address, an identity
    target: str  # what was asked for
    verdict: str  # allowed, or the constant word of the refusal
    detail: str = ""
    # Of a request at an O&M entry only:
    request: str | None = None  # its id, the same in the agent's log
    sent: int | None = None  # bytes to the target
    received: int | None = None  # bytes from it
    seconds: float | None = None  # from its head to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRecord:
    """What proves the name of an O&M client: an access token, or the certificate of an operator."""

    id: str  # of the token; serial of the certificate
    kind: Literal["token", "certificate"]
    name: str
    secret_hash: bytes | None = field(default=None, repr=False)  # SHA-256 of the token's secret
    created: float
    expires: float
    revoked: float | None = None


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where the audit's hash chain stood at some time."""

    line: int
    hash: str  # SHA-256, hexadecimal

    def __str__(self) -> str:
        return f"{self.line}:{self.hash}"


# Signs the certificate for the node name the registry has accepted; called inside the transaction.
Issue = Callable[[str], CertificateRecord]


class Registry(Protocol):
    """What a gateway asks of its registry."""

    def nodes(self) -> list[NodeRecord]:
        """Every node, by name."""
        ...

    def node(self, name: str) -> NodeRecord | None: ...

    def nodes_at(self, address: str) -> list[str]:
        """The nodes whose own address is `address`, connected or not, by name."""
        ...

    def record_hello(
        self,
        name: str,
        *,
        public_key: PublicKey | None,
        pod_cidrs: Sequence[str],
        software: str,
        now: float,
        address: str = "",
    ) -> None:
        """Called when a node's AgentHello arrived; keeps what it last offered and told. Counts as seen."""
        ...

    def record_seen(self, seen: Mapping[str, float]) -> None:
        """Called now and then with the wall times nodes were last heard; never goes back. Not durable."""
        ...

    def allow_pods(self, name: str, cidrs: Sequence[str]) -> bool:
        """From now on the node may claim pod networks in these; False when it is not there. Durable; changes
        `revision`.
        """
        ...

    def remove_node(self, name: str, *, now: float) -> bool:
        """Forgets a node, withdraws its certificates; False when it was not there. Durable."""
        ...

    def known_gateways(self) -> KnownGateways: ...

    def record_gateway(self, name: str, *, address: str, now: float) -> None:
        """Called when a gateway starts: this is where agents dial it."""
        ...

    def list_gateways(self, addresses: Mapping[str, str], *, now: float) -> None:
        """Called when somebody else knows which gateways there are: these, by name, no others. Durable."""
        ...

    def add_token(self, token: TokenRecord) -> None:
        """Durable."""
        ...

    def tokens(self) -> list[TokenRecord]:
        """Every token that is still remembered, newest first."""
        ...

    def remove_token(self, token_id: str) -> bool:
        """Durable."""
        ...

    def add_credential(self, credential: CredentialRecord) -> None:
        """Durable."""
        ...

    def credential(self, credential_id: str) -> CredentialRecord | None: ...

    def credentials(self) -> list[CredentialRecord]:
        """Every one that is still remembered, newest first."""
        ...

    def revoke_credential(self, credential_id: str, *, now: float) -> bool:
        """False when there is none, or it was revoked before. Durable; changes `revision`."""
        ...

    def enrol(
        self,
        *,
        token_id: str,
        secret: bytes,
        node: str,
        key_hash: bytes,
        now: float,
        issue: Issue,
        asker: str = "",
    ) -> CertificateRecord:
        """Redeems the token; remembers the node, its certificate and who asked; all or nothing. Durable.

        RefusedError "token-unknown", "token-expired", "token-used", "token-node" or "node-taken". The same
        token, node and key once more is the repetition of a join whose answer was lost: it returns
        the certificate already issued.
        """
        ...

    def renew(
        self,
        *,
        node: str,
        serial: str,
        key_hash: bytes,
        now: float,
        issue: Issue,
        asker: str = "",
        due: bool = False,
    ) -> CertificateRecord:
        """The next certificate of `node`, which has shown `serial`. Durable.

        The old one stays good until the new one was used, since the answer may get lost; the same
        request once more gets the same answer, whichever of the two is shown. `due` says that it is,
        whatever its age. RefusedError as of `check_certificate`, "renew-early" before two thirds of the
        life, or "renew-often" soon after another renewal.
        """
        ...

    def record_use(self, *, node: str, serial: str, now: float) -> None:
        """Called when `node` has connected with `serial`: the certificates before it are superseded."""
        ...

    def check_certificate(self, *, node: str, serial: str, connected: bool = False) -> None:
        """Returns if `node` may connect with certificate `serial`; where it is `connected`, if it may stay.

        A tunnel outlives that its certificate was renewed, but not that it was revoked. RefusedError
        "node-unknown" or "certificate-replaced" otherwise.
        """
        ...

    def entitled(self, *, now: float) -> set[str]:
        """The nodes that have a certificate that counts `now`, connected or not."""
        ...

    def revision(self) -> int:
        """Another number than before whenever a connected node may have to go, whichever process saw to that.

        Cheap enough to ask twice a second; not changed by whatever happens all the time.
        """
        ...

    def certificates(self, node: str) -> list[CertificateRecord]:
        """Newest first."""
        ...

    def append_audit(self, records: Sequence[AuditRecord]) -> None:
        """In one go, so that a busy gateway writes batches. Not durable: the last second may die with the
        power.
        """
        ...

    def audit(self, limit: int = 100) -> list[AuditRecord]:
        """The newest `limit`, newest first."""
        ...

    def audit_head(self) -> AuditHead:
        """The end of the chain; to be kept elsewhere, because a forger of the file could forge all of it."""
        ...

    def close(self) -> None: ...
