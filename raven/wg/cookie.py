"""mac1, mac2 and cookies: cheap proofs that come before any expensive work (WireGuard paper, section 5.3).

mac1 proves that the sender knows our public key; mac2 proves, while we are under load, that it receives at
the address it sends from. `CookieChecker` is the device's side, `MacGenerator` a peer's. A message's MACs
are its last 32 bytes; nothing else of it is understood here.
"""

from collections.abc import Callable

from raven.errors import PeerError
from raven.keys import PublicKey
from raven.wg.constants import COOKIE_LATENCY, COOKIE_LIFETIME, LABEL_COOKIE, LABEL_MAC1
from raven.wg.messages import MAC_LEN, MACS_LEN, CookieReply
from raven.wg.primitives import XNONCE_LEN, equal, hash_, mac, xaead_open, xaead_seal

_NO_MAC = bytes(MAC_LEN)
_NEVER = float("-inf")


def mac1_key(public: PublicKey) -> bytes:
    return hash_(LABEL_MAC1, public)


def cookie_key(public: PublicKey) -> bytes:
    return hash_(LABEL_COOKIE, public)


class CookieChecker:
    """Verifies the MACs of messages to one device, and makes cookies for who must prove an address."""

    __slots__ = ("_cookie_key", "_mac1_key", "_random", "_secret", "_secret_born")

    def __init__(self, public: PublicKey, random: Callable[[int], bytes]) -> None:
        self._mac1_key = mac1_key(public)
        self._cookie_key = cookie_key(public)
        self._random = random
        self._secret = b""
        self._secret_born = _NEVER

    def mac1_is_valid(self, message: bytes) -> bool:
        return equal(mac(self._mac1_key, message[:-MACS_LEN]), message[-MACS_LEN:-MAC_LEN])

    def mac2_is_valid(self, message: bytes, source: bytes, now: float) -> bool:
        """Whether the sender has the cookie of `source`, its address and port in any one spelling."""
        return equal(mac(self._cookie(source, now), message[:-MAC_LEN]), message[-MAC_LEN:])

    def reply(self, message: bytes, receiver: int, source: bytes, now: float) -> CookieReply:
        """The answer to a message whose mac1 is valid and whose mac2 is not; bound to it by that mac1."""
        nonce = self._random(XNONCE_LEN)
        associated = message[-MACS_LEN:-MAC_LEN]
        sealed = xaead_seal(self._cookie_key, nonce, self._cookie(source, now), associated)
        return CookieReply(receiver, nonce, sealed)

    def _cookie(self, source: bytes, now: float) -> bytes:
        # A cookie made just before the secret changes fails; the peer asks again after REKEY_TIMEOUT.
        if now - self._secret_born >= COOKIE_LIFETIME:
            self._secret = self._random(32)
            self._secret_born = now
        return mac(self._secret, source)


class MacGenerator:
    """Adds the MACs to messages for one peer, and keeps the newest cookie the peer gave."""

    __slots__ = ("_cookie", "_cookie_born", "_cookie_key", "_mac1_key", "_sent_mac1")

    def __init__(self, public: PublicKey) -> None:
        self._mac1_key = mac1_key(public)
        self._cookie_key = cookie_key(public)
        self._cookie = b""
        self._cookie_born = _NEVER
        self._sent_mac1: bytes | None = None  # of the newest message, until a cookie reply used it

    def add_macs(self, message: bytes, now: float) -> bytes:
        """`message` with mac1 and mac2 behind it, ready to send."""
        mac1 = mac(self._mac1_key, message)
        message += mac1
        self._sent_mac1 = mac1
        if now - self._cookie_born < COOKIE_LIFETIME - COOKIE_LATENCY:
            return message + mac(self._cookie, message)
        return message + _NO_MAC

    def cookie_reply_received(self, reply: CookieReply, now: float) -> None:
        """Keeps the cookie, for the next message; PeerError for a reply to nothing we sent last."""
        if self._sent_mac1 is None:
            raise PeerError("cookie-unexpected", "a cookie reply that answers no message")
        cookie = xaead_open(self._cookie_key, reply.nonce, reply.cookie, self._sent_mac1)
        self._sent_mac1 = None
        self._cookie = cookie
        self._cookie_born = now
