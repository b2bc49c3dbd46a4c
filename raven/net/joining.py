"""The joining end of a join: meets a gateway by the pin in a token, and gets a certificate for a key.

Above stand `raven-agent join` and `raven-gateway join`, which keep what they get. Nothing is said to the
other end before it has shown a CA that matches the pin, and a certificate of that CA on the very TLS
connection. Runs once and exits, so it may import `cryptography`, which the running agent must not.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from cryptography import x509

from raven.control.messages import JoinAccepted, JoinHello, JoinRefused, JoinRequest
from raven.errors import PeerError, RefusedError
from raven.net.busy import Busy, heed_untrusted
from raven.net.dial import dial
from raven.net.join_channel import STEP_TIMEOUT, ByteStream, JoinChannel
from raven.net.proxy import DIRECT, Ways
from raven.net.tls import JOIN_ALPN, JOIN_NAME, join_context
from raven.net.tls_stream import HandshakeFailed, TLSStream, client_handshake
from raven.pki.certificate import Leaf, check_leaf_untrusted, pin_of, read_ca_untrusted
from raven.pki.csr import Key, key_hash, make_csr
from raven.pki.identity import Role
from raven.pki.token import JoinToken, pin_text

_HANDSHAKE_TIMEOUT = 10.0  # seconds
_CLOSE_TIMEOUT = 1.0  # seconds to take leave, which only makes the gateway's log friendlier


class TlsStream(ByteStream, Protocol):
    """A stream over TLS whose handshake is done."""

    def getpeercert(self, binary_form: bool = False) -> Any: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway that proved itself gave for the token; checked."""

    certificate_pem: str
    ca_pem: str
    cluster: str
    gateways: list[str]  # HOST:PORT
    clock_skew: float  # seconds
    not_before: float  # Unix seconds, of the certificate


@dataclass(frozen=True, slots=True)
class Expected:
    """The CA that the other end has to show, and who says so; the words are for errors."""

    pin: bytes
    told: str  # "the token is for": goes before the pin
    otherwise: str  # what it may be instead of an attack
    kept: str  # what was not said


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a gateway that proved itself says of itself."""

    ca: x509.Certificate
    ca_pem: str
    cluster: str
    moment: float  # Unix seconds to judge its certificates by
    clock_skew: float  # seconds its clock is ahead of ours


async def meet(
    gateway: tuple[str, int],
    *,
    shown: str,
    ways: Ways = DIRECT,
    expected: Expected,
    now: Callable[[], float],
) -> Greeting:
    """Dials `gateway`, has it prove itself, and leaves without a word; errors as of `join_through`."""
    stream = await _dial(*gateway, shown, ways)
    try:
        return await _greet(JoinChannel(stream), stream, expected, now)
    finally:
        with trio.move_on_after(_CLOSE_TIMEOUT):
            await stream.aclose()


async def join_through(
    gateway: tuple[str, int],
    *,
    shown: str,
    ways: Ways = DIRECT,
    token: JoinToken,
    node: str,
    key: Key,
    now: Callable[[], float],
    role: Role = Role.NODE,
    address: str = "",
) -> Answer:
    """Dials `gateway`, which errors call `shown`, and joins there.

    When the answer is lost on the way, the same call again gets it: the gateway knows token and key.
    RefusedError when the gateway refuses, or is not the one the token is for; PeerError when it cannot be
    reached or misbehaves.
    """
    stream = await _dial(*gateway, shown, ways)
    try:
        return await converse(stream, token=token, node=node, key=key, now=now, role=role, address=address)
    finally:
        with trio.move_on_after(_CLOSE_TIMEOUT):
            await stream.aclose()


async def converse(
    stream: TlsStream,
    *,
    token: JoinToken,
    node: str,
    key: Key,
    now: Callable[[], float],
    role: Role = Role.NODE,
    address: str = "",
    step_timeout: float = STEP_TIMEOUT,
) -> Answer:
    """The join's messages over `stream`, which stays open; errors as of `join_through`.

    `node` is the name to join with, a gateway's too; `address` is where agents will dial that gateway.
    """
    channel = JoinChannel(stream, step_timeout=step_timeout)
    expected = Expected(
        token.pin, "the token is for", "it is the token of another gateway", "The token was not sent"
    )
    gateway = await _greet(channel, stream, expected, now)
    # From here on the other end is the gateway that the token was made by.
    request = JoinRequest(
        token=token.text(),
        node=node,
        csr_pem=make_csr(key, node),
        role="gateway" if role is Role.GATEWAY else "node",
        address=address,
    )
    await channel.send(request)
    accepted = await channel.receive()
    if isinstance(accepted, JoinRefused):
        raise RefusedError(accepted.reason, f"the gateway refused: {accepted.message}")
    if not isinstance(accepted, JoinAccepted):
        raise PeerError("bad-join", "the gateway answered a join-request with something else")
    leaf = check_own_untrusted(
        accepted.certificate_pem,
        gateway.ca,
        role=role,
        cluster=gateway.cluster,
        name=node,
        key=key,
        now=gateway.moment,
    )
    return Answer(
        leaf.pem, gateway.ca_pem, gateway.cluster, accepted.gateways, gateway.clock_skew, leaf.not_before
    )


def check_own_untrusted(
    pem: str, ca: x509.Certificate, *, role: Role, cluster: str, name: str, key: Key, now: float
) -> Leaf:
    """The certificate that was asked for with `key`, for this very name; PeerError for any other."""
    leaf = check_leaf_untrusted(pem, ca, role=role, cluster=cluster, now=now)
    if leaf.identity.name != name or leaf.key_hash != key_hash(key.public_key()):
        raise PeerError(
            "wrong-certificate", f"the gateway sent a certificate of {leaf.identity}, not of our key"
        )
    return leaf


async def _greet(
    channel: JoinChannel, stream: TlsStream, expected: Expected, now: Callable[[], float]
) -> Greeting:
    hello = await channel.receive()
    if not isinstance(hello, JoinHello):
        raise PeerError("bad-join", "the gateway did not begin with a join-hello")
    ca, moment = _check_gateway_untrusted(hello, stream.getpeercert(binary_form=True), expected, now())
    return Greeting(ca, hello.ca_pem, hello.cluster, moment, hello.now - now())


def _check_gateway_untrusted(
    hello: JoinHello, leaf_der: bytes | None, expected: Expected, now: float
) -> tuple[x509.Certificate, float]:
    """The CA whose gateway is at the other end, and the time to judge its certificates by.

    The later of both clocks counts: a device without a clock battery wakes up in the past, while a gateway
    that lies about the time only makes its own certificate older.
    """
    ca = read_ca_untrusted(hello.ca_pem)
    if not hmac.compare_digest(pin_of(ca), expected.pin):
        raise RefusedError(
            "wrong-pin",
            f"the gateway shows a CA with pin {pin_text(pin_of(ca))},"
            f" {expected.told} {pin_text(expected.pin)}: {expected.otherwise},"
            f" or somebody in between pretends to be this one. {expected.kept}",
        )
    moment = max(now, hello.now)
    try:
        check_leaf_untrusted(leaf_der or b"", ca, role=Role.GATEWAY, cluster=hello.cluster, now=moment)
    except PeerError as error:
        raise RefusedError(
            error.reason,
            f"the gateway shows the right CA, but its own certificate does not hold: {error}."
            f" Somebody in between may pretend to be this gateway. {expected.kept}",
        ) from error
    return ca, moment


async def _dial(host: str, port: int, shown: str, ways: Ways) -> TLSStream:
    try:
        transport = await dial(host, port, ways=ways)
    except PeerError as error:
        raise PeerError("unreachable", f"{shown} cannot be reached: {error}") from error
    try:
        stream = await client_handshake(
            transport,
            join_context(),
            server_hostname=JOIN_NAME,
            timeout=_HANDSHAKE_TIMEOUT,
            look=heed_untrusted,
        )
    except HandshakeFailed as error:
        if error.reason == "tls-timeout":
            text = f"{shown} accepts connections, but does not shake hands within {_HANDSHAKE_TIMEOUT:.0f} s"
            raise PeerError("handshake-timeout", text) from error
        raise PeerError("handshake", f"{shown}: {error}") from error
    except Busy as error:
        raise PeerError(error.reason, f"{shown}: {error}") from error
    if stream.selected_alpn_protocol() != JOIN_ALPN:
        await trio.aclose_forcefully(stream)
        raise PeerError("wrong-alpn", f"{shown} speaks TLS, but not {JOIN_ALPN}; is it a Raven gateway?")
    return stream
