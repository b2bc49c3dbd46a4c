"""Handshake messages as they come from anybody: which are worth work, and whose they are.

The first guards of a device stand here in their order: mac1, load and cookie, the rate of one source. What
passes goes to its peer. Above is `device`, which handles transport messages itself; below are the peers.
"""

from raven.errors import PeerError
from raven.wg.constants import HANDSHAKE_TOS
from raven.wg.endpoint import Endpoint
from raven.wg.handshake import authenticate_initiation, open_initiation
from raven.wg.messages import (
    TYPE_COOKIE_REPLY,
    TYPE_INITIATION,
    TYPE_RESPONSE,
    CookieReply,
    Initiation,
    Response,
)
from raven.wg.outbox import Drop, Transmit
from raven.wg.peer import Peer
from raven.wg.peers import Peers
from raven.wg.ratelimiter import LoadMeter, RateLimiter
from raven.wg.shared import Identity, Shared


class Admission:
    """The handshake messages of one device."""

    __slots__ = ("_load", "_peers", "_rate_limiter", "_shared")

    def __init__(self, shared: Shared[Peer], peers: Peers) -> None:
        self._shared = shared
        self._peers = peers
        self._load = LoadMeter()
        self._rate_limiter = RateLimiter()

    def receive(self, kind: int, message: bytes, endpoint: Endpoint, now: float) -> None:
        """An initiation, response or cookie reply, or what claims to be one."""
        try:
            if kind == TYPE_INITIATION:
                self._receive_initiation(message, endpoint, now)
            elif kind == TYPE_RESPONSE:
                self._receive_response(message, endpoint, now)
            elif kind == TYPE_COOKIE_REPLY:
                self._receive_cookie_reply(message, now)
            else:
                self._shared.outbox.drop(Drop.MALFORMED)
        except PeerError as error:
            self._shared.outbox.drop(error.reason)

    def _receive_initiation(self, message: bytes, endpoint: Endpoint, now: float) -> None:
        initiation = Initiation.decode_untrusted(message)
        identity = self._admit(message, initiation.sender, endpoint, now)
        if identity is None:
            return
        opened = open_initiation(identity.dh, initiation)
        peer = self._peers.get(opened.static)
        if peer is None:
            raise PeerError(Drop.UNKNOWN_PEER, "a handshake by a key that is not configured")
        authenticated = authenticate_initiation(opened, peer.static_static())
        peer.answer(authenticated, len(message), endpoint, now)

    def _receive_response(self, message: bytes, endpoint: Endpoint, now: float) -> None:
        response = Response.decode_untrusted(message)
        if self._admit(message, response.sender, endpoint, now) is None:
            return
        peer = self._shared.handshakes.get(response.receiver)
        if peer is None:
            raise PeerError(Drop.UNKNOWN_INDEX, "a response to no handshake of ours")
        peer.response_received(response, len(message), endpoint, now)

    def _receive_cookie_reply(self, message: bytes, now: float) -> None:
        reply = CookieReply.decode_untrusted(message)
        peer = self._shared.handshakes.get(reply.receiver)
        if peer is None:
            found = self._shared.keypairs.get(reply.receiver)  # it answers a response that we sent
            if found is None:
                raise PeerError(Drop.UNKNOWN_INDEX, "a cookie reply to nothing of ours")
            peer = found[0]
        peer.cookie_reply_received(reply, now)

    def _admit(self, message: bytes, sender: int, endpoint: Endpoint, now: float) -> Identity | None:
        """Our identity if a message is worth Diffie-Hellman; None if a cookie was sent instead. PeerError."""
        identity = self._shared.identity
        if identity is None:
            raise PeerError(Drop.NO_PRIVATE_KEY, "the device has no private key")
        if not identity.checker.mac1_is_valid(message):
            raise PeerError(Drop.MAC1, "mac1 is not by someone who knows our key")
        if not self._load.message_received(now):
            return identity
        source = f"{endpoint.host} {endpoint.port}".encode()
        if not identity.checker.mac2_is_valid(message, source, now):
            reply = identity.checker.reply(message, sender, source, now).encode()
            self._shared.outbox.transmits.append(Transmit(endpoint, len(reply), reply, HANDSHAKE_TOS))
            self._shared.outbox.drop(Drop.COOKIE_SENT)
            return None
        if not self._rate_limiter.allow(endpoint.host, now):
            raise PeerError(Drop.RATE_LIMITED, "too many handshakes from one source")
        return identity
