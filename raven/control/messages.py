"""The messages of the stream lane: joining, CONTROL frames, and the header of an OPEN frame.

JSON, one object a message, tagged by `type`. A receiver ignores fields it does not know and refuses types it
does not know, so that a newer end can add fields; what breaks an older one raises `VERSION`.
"""

from typing import Annotated, Literal

import msgspec

from raven.errors import PeerError
from raven.names import NAME_PATTERN

VERSION = 1
GATEWAYS_MAX = 32  # of one cluster; an agent pays some 50 kB and its pings for each
MESSAGE_MAX = 1 << 20  # bytes; a NetworkMap of some thousand nodes fits

NodeName = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, max_length=253)]
Host = Annotated[str, msgspec.Meta(max_length=253)]
GatewayAddress = Annotated[str, msgspec.Meta(max_length=260)]  # HOST:PORT to dial
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Cidr = Annotated[str, msgspec.Meta(max_length=49)]
CertificatePem = Annotated[str, msgspec.Meta(max_length=16384)]
Span = Annotated[float, msgspec.Meta(ge=0, le=4e9)]  # seconds
WallTime = Annotated[float, msgspec.Meta(ge=0, lt=253402300800)]  # Unix seconds, to the end of year 9999
Sentence = Annotated[str, msgspec.Meta(max_length=2000)]  # for people; kept and shown by the other end
AskerName = Annotated[str, msgspec.Meta(max_length=160)]
Ciphers = Annotated[list[Annotated[str, msgspec.Meta(max_length=40)]], msgspec.Meta(max_length=16)]
Sentences = Annotated[list[Sentence], msgspec.Meta(max_length=1000)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of every message."""


# Joining: ALPN raven-join/1, no client certificate, each message behind a u32 length --------------


class JoinHello(Message, frozen=True, kw_only=True, tag="join-hello"):
    """Gateway, first: the CA that the token's pin must match before the agent says anything."""

    ca_pem: str
    cluster: str
    now: WallTime  # of the gateway
    seen_as: Annotated[str, msgspec.Meta(max_length=64)] = ""  # HOST:PORT that the connection comes from


class JoinRequest(Message, frozen=True, kw_only=True, tag="join-request"):
    token: str
    node: NodeName  # a gateway's name where it is one that joins
    csr_pem: str
    role: Literal["node", "gateway"] = "node"
    address: GatewayAddress = ""  # of a gateway: HOST:PORT that agents shall dial

    def __repr__(self) -> str:
        return f"JoinRequest(node={self.node!r}, token=hidden)"


class JoinAccepted(Message, frozen=True, kw_only=True, tag="join-accepted"):
    certificate_pem: str
    ca_pem: str
    cluster: str
    gateways: list[str]  # HOST:PORT to dial


class JoinRefused(Message, frozen=True, kw_only=True, tag="join-refused"):
    # Constant word: token-unknown, token-expired, token-used, token-node, node-taken, bad-csr, ...
    reason: str
    message: str


# Control: stream 0 of a tunnel --------------------------------------------------------------------


class PacketOffer(msgspec.Struct, frozen=True, kw_only=True):
    """What a node brings to the packet lane."""

    public_key: str  # base64
    listen_port: int
    pod_cidrs: Annotated[list[Cidr], msgspec.Meta(max_length=1000)]
    probes: bool = False  # its device is a `raven-wg`, which answers probes of the path's MTU
    superframes: Ciphers = []  # what its device can seal superframes with, best first; none: it cannot


class AgentHello(Message, frozen=True, kw_only=True, tag="agent-hello"):
    """Agent, first message of a tunnel, and again whenever its content changes."""

    version: int
    node: NodeName
    software: Sentence
    packets: PacketOffer | None
    no_packets_reason: Sentence = ""  # when `packets` is None
    allow: Sentences = []  # the agent's allow list, for display only
    # Its own address, by which a request may name it; "" where it has none to tell.
    address: Annotated[str, msgspec.Meta(max_length=45)] = ""


class GatewayHello(Message, frozen=True, kw_only=True, tag="gateway-hello"):
    """Gateway, answer to the first AgentHello."""

    version: int
    gateway: str
    cluster: str
    software: str
    now: WallTime = 0.0  # of the gateway; an agent's own clock may be anything
    renew_in: Span | None = None  # seconds until the certificate of this tunnel should be renewed
    # The certificate has expired: the tunnel carries a RenewRequest and its answer, and nothing else.
    renew_only: bool = False
    # The gateway's CA. One that the agent does not know yet has a link: its key, signed by the CA before.
    ca_pem: Annotated[str, msgspec.Meta(max_length=16384)] = ""
    ca_link_pem: Annotated[str, msgspec.Meta(max_length=16384)] = ""
    ca_overlap: bool = False  # the CA before is trusted too, for now


class KnownGateway(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway of the cluster. Whoever is met there still has to show a gateway's certificate."""

    name: NodeName
    address: GatewayAddress


class GatewayList(Message, frozen=True, kw_only=True, tag="gateway-list"):
    """Gateway to agent, after the hello and with every change: the gateways to keep tunnels to.

    The newest revision counts, whichever gateway tells it: one may have been cut off from the others.
    """

    revision: Annotated[int, msgspec.Meta(ge=0)]
    gateways: Annotated[list[KnownGateway], msgspec.Meta(max_length=GATEWAYS_MAX)]


class MapNode(msgspec.Struct, frozen=True, kw_only=True):
    """One WireGuard device of the network as the gateway knows it."""

    name: str
    public_key: str  # base64
    endpoint: str  # HOST:PORT, or "" where nobody can dial it
    pod_cidrs: list[Cidr]
    hub: bool
    probes: bool = False  # as in its offer
    superframes: Ciphers = []  # as in its offer
    starts: int = 0  # of a hub's device; another number than before: it has lost its keys


class NetworkMap(Message, frozen=True, kw_only=True, tag="network-map"):
    """Gateway to agent: all devices an agent's plan needs; replaces the map before it."""

    revision: int
    nodes: list[MapNode]
    problem: str = ""  # a sentence for the agent, when the gateway could not use its offer


class PacketReport(Message, frozen=True, kw_only=True, tag="packet-report"):
    """Agent to gateway: how its own end of the packet lane does; "" means well."""

    problem: Sentence


class RenewRequest(Message, frozen=True, kw_only=True, tag="renew-request"):
    """Agent to gateway: the next certificate, please; one request at a time."""

    csr_pem: Annotated[str, msgspec.Meta(max_length=8192)]


class Renewed(Message, frozen=True, kw_only=True, tag="renewed"):
    """Gateway to agent: for the key in the request. The old one is good until the new one was used."""

    certificate_pem: CertificatePem
    renew_in: Span  # seconds until this one should be renewed


class RenewRefused(Message, frozen=True, kw_only=True, tag="renew-refused"):
    reason: Sentence  # a constant word
    message: Sentence


FromGateway = GatewayHello | GatewayList | NetworkMap | Renewed | RenewRefused
ControlMessage = AgentHello | PacketReport | RenewRequest | FromGateway
JoinMessage = JoinHello | JoinRequest | JoinAccepted | JoinRefused


# OPEN and ACCEPT headers -------------------------------------------------------------------------


class OpenRequest(Message, frozen=True, kw_only=True, tag="open"):
    """Header of an OPEN frame: where the agent shall connect the stream.

    `host` is "" for the node itself. Who asks is the gateway's word: the agent's allow list may be wider for
    some askers, and so for a gateway that lies.
    """

    host: Host
    port: Port
    asker: str  # the address it came from at the gateway: HOST:PORT, or "unix"
    request: str  # its id, the same in the gateway's audit
    names: Annotated[list[AskerName], msgspec.Meta(max_length=32)] = []  # KIND:NAME of raven.oam.asker


class Opened(Message, frozen=True, kw_only=True, tag="opened"):
    """Header of an ACCEPT frame: how long the agent took to connect to the target."""

    seconds: Span


_encoder = msgspec.json.Encoder()
_control_decoder: msgspec.json.Decoder[ControlMessage] = msgspec.json.Decoder(ControlMessage)
_join_decoder: msgspec.json.Decoder[JoinMessage] = msgspec.json.Decoder(JoinMessage)
_open_decoder = msgspec.json.Decoder(OpenRequest)
_opened_decoder = msgspec.json.Decoder(Opened)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_control_untrusted(data: bytes) -> ControlMessage:
    """The control message in `data`; PeerError "bad-control" names the field that does not fit."""
    try:
        return _control_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError("bad-control", f"control message: {error}") from error


def decode_join_untrusted(data: bytes) -> JoinMessage:
    """The join message in `data`; PeerError "bad-join" names the field that does not fit."""
    try:
        return _join_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError("bad-join", f"join message: {error}") from error


def decode_open_untrusted(data: bytes) -> OpenRequest:
    """The OPEN header in `data`; PeerError "bad-open" names the field that does not fit."""
    try:
        return _open_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError("bad-open", f"OPEN header: {error}") from error


def decode_opened_untrusted(data: bytes) -> Opened:
    """The ACCEPT header in `data`; PeerError "bad-opened" names the field that does not fit."""
    try:
        return _opened_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError("bad-opened", f"ACCEPT header: {error}") from error
