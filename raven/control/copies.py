"""What a gateway and the one it follows say to each other: CONTROL frames of a tunnel of ALPN raven-follow/1.

The followed gateway holds the CA and the registry; the other has a copy of what it needs to know who is who.
Nobody's secret is in it: no key of the CA, no join token, of access tokens the hash. What only the CA can do
is asked for, one answer a question. Same rules of encoding as `raven.control.messages`.
"""

from typing import Annotated, Literal, TypeVar

import msgspec

from raven.control.messages import (
    CertificatePem,
    Cidr,
    GatewayAddress,
    Message,
    NodeName,
    Sentence,
    WallTime,
)
from raven.errors import PeerError

VERSION = 1
PAGE = 500  # rows of each kind in one message; with 64 pod networks a node it stays below MESSAGE_MAX

Serial = Annotated[str, msgspec.Meta(max_length=40)]
Csr = Annotated[str, msgspec.Meta(max_length=8192)]
Hash = Annotated[str, msgspec.Meta(max_length=44)]  # SHA-256 in base64
Number = Annotated[int, msgspec.Meta(ge=0)]  # of a question; its answer has the same


class FollowerHello(Message, frozen=True, kw_only=True, tag="follower-hello"):
    """Follower, first: who it is and where agents dial it."""

    version: int
    gateway: NodeName
    address: GatewayAddress
    software: Sentence


class CopiedNode(msgspec.Struct, frozen=True, kw_only=True):
    name: NodeName
    created: float
    public_key: str  # base64, or ""
    pod_cidrs: Annotated[list[Cidr], msgspec.Meta(max_length=64)]
    software: Sentence
    certificate_serial: Serial
    address: Annotated[str, msgspec.Meta(max_length=49)] = ""
    pod_allow: Annotated[list[Cidr], msgspec.Meta(max_length=64)] = []


class CopiedCredential(msgspec.Struct, frozen=True, kw_only=True):
    """Who may ask at the O&M entries."""

    id: Annotated[str, msgspec.Meta(max_length=64)]
    kind: Literal["token", "certificate"]
    name: Annotated[str, msgspec.Meta(max_length=253)]
    secret_hash: Hash  # "" for a certificate
    created: float
    expires: float
    revoked: float | None


class CopiedCertificate(msgspec.Struct, frozen=True, kw_only=True):
    serial: Serial
    node: NodeName
    key_hash: Hash
    not_before: float
    not_after: float
    issued: float
    revoked: float | None
    superseded: float | None


class CopiedGateway(msgspec.Struct, frozen=True, kw_only=True):
    name: NodeName
    address: GatewayAddress
    created: float


class Copy(Message, frozen=True, kw_only=True, tag="copy"):
    """Followed, with every change: a page of all there is. The copy counts once the last page is there."""

    revision: int
    more: bool  # another page follows
    nodes: Annotated[tuple[CopiedNode, ...], msgspec.Meta(max_length=PAGE)] = ()
    certificates: Annotated[tuple[CopiedCertificate, ...], msgspec.Meta(max_length=PAGE)] = ()
    credentials: Annotated[tuple[CopiedCredential, ...], msgspec.Meta(max_length=PAGE)] = ()
    gateways: Annotated[tuple[CopiedGateway, ...], msgspec.Meta(max_length=PAGE)] = ()  # on the last page
    gateways_revision: int = 0


class AskJoin(Message, frozen=True, kw_only=True, tag="ask-join"):
    """Follower: a node came to it with this request."""

    number: Number
    token: Annotated[str, msgspec.Meta(max_length=256)]
    node: NodeName
    csr_pem: Csr
    asker: Sentence

    def __repr__(self) -> str:
        return f"AskJoin(node={self.node!r}, token=hidden)"


class AskRenewal(Message, frozen=True, kw_only=True, tag="ask-renewal"):
    """Follower: a node that came to it with `serial` wants the next certificate."""

    number: Number
    node: NodeName
    serial: Serial
    csr_pem: Csr
    asker: Sentence


class AskOwn(Message, frozen=True, kw_only=True, tag="ask-own"):
    """Follower: its own next certificate, for the key it has."""

    number: Number
    csr_pem: Csr


class Used(Message, frozen=True, kw_only=True, tag="used"):
    """Follower: the node has come with this certificate, so those before are superseded."""

    node: NodeName
    serial: Serial
    when: WallTime


class Issued(Message, frozen=True, kw_only=True, tag="issued"):
    """Followed: the certificate that was asked for."""

    number: Number
    serial: Serial
    node: NodeName  # or the gateway
    key_hash: Hash
    not_before: float
    not_after: float
    issued: float
    pem: CertificatePem


class Trusted(Message, frozen=True, kw_only=True, tag="trusted"):
    """Followed, first and with every change: the CA there is now."""

    ca_pem: CertificatePem
    link_pem: Annotated[str, msgspec.Meta(max_length=16384)]  # by the CA before; "" where none is trusted
    overlap: bool  # the CA before is trusted too


class NotIssued(Message, frozen=True, kw_only=True, tag="not-issued"):
    number: Number
    reason: Sentence  # a constant word
    message: Sentence


FromFollower = FollowerHello | AskJoin | AskRenewal | AskOwn | Used
FromFollowed = Copy | Issued | NotIssued | Trusted

_follower: msgspec.json.Decoder[FromFollower] = msgspec.json.Decoder(FromFollower)
_followed: msgspec.json.Decoder[FromFollowed] = msgspec.json.Decoder(FromFollowed)


def decode_follower_untrusted(data: bytes) -> FromFollower:
    """What a follower says; PeerError "bad-control" names the field that does not fit."""
    return _decode(_follower, data)


def decode_followed_untrusted(data: bytes) -> FromFollowed:
    """What the followed gateway says; PeerError as above."""
    return _decode(_followed, data)


T = TypeVar("T")


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError("bad-control", f"message between gateways: {error}") from error
