"""The four messages, bytes to values and back (WireGuard paper, section 5.4).

Above: handshake, cookie, peer and device. Layout only: nothing here decrypts or verifies. Transport messages
have no class because the data path reads their header in place, a burst at a time.
"""

import struct
from dataclasses import dataclass
from typing import Self

from raven.errors import PeerError

TYPE_INITIATION = 1
TYPE_RESPONSE = 2
TYPE_COOKIE_REPLY = 3
TYPE_TRANSPORT = 4

TYPE = struct.Struct("<I")  # u8 type, then three bytes that must be zero: compared as one u32

# - u8 type = 1, 3 zero bytes
# - u32 sender's index
# - 32 bytes ephemeral public key
# - 48 bytes static public key, sealed
# - 28 bytes TAI64N timestamp, sealed
# - 16 bytes mac1
# - 16 bytes mac2, zero without a cookie
_INITIATION = struct.Struct("<II32s48s28s")
# - u8 type = 2, 3 zero bytes
# - u32 sender's index
# - u32 receiver's index
# - 32 bytes ephemeral public key
# - 16 bytes of an empty plaintext, sealed
# - 16 bytes mac1
# - 16 bytes mac2, zero without a cookie
_RESPONSE = struct.Struct("<III32s16s")
# - u8 type = 3, 3 zero bytes
# - u32 receiver's index
# - 24 bytes nonce
# - 32 bytes cookie, sealed
_COOKIE_REPLY = struct.Struct("<II24s32s")
# - u8 type = 4, 3 zero bytes
# - u32 receiver's index
# - u64 counter
# - padded packet, sealed
TRANSPORT_HEADER = struct.Struct("<IIQ")

MAC_LEN = 16  # bytes
MACS_LEN = 2 * MAC_LEN
TAG_LEN = 16  # bytes that sealing adds

INITIATION_LEN = _INITIATION.size + MACS_LEN
RESPONSE_LEN = _RESPONSE.size + MACS_LEN
COOKIE_REPLY_LEN = _COOKIE_REPLY.size
TRANSPORT_OVERHEAD = TRANSPORT_HEADER.size + TAG_LEN  # also the length of a keepalive

TAI64N_LEN = 12  # bytes
_TAI64N = struct.Struct(">QI")
# Nanoseconds are cut to 2^24 (17 ms) so that a timestamp tells little about the clock that made it: the
# largest power of two under a second / INITIATIONS_PER_SECOND, as in the kernel.
_TAI64N_GRAIN = 1 << 24


class MessageError(PeerError):
    """A datagram that is not the message it claims to be."""


def tai64n(seconds: int, nanoseconds: int) -> bytes:
    """The 12-byte label of a Unix time (https://cr.yp.to/libtai/tai64.html); labels compare like times."""
    return _TAI64N.pack((1 << 62) + 10 + seconds, nanoseconds & -_TAI64N_GRAIN)


@dataclass(frozen=True, slots=True)
class Initiation:
    """The first message of a handshake, without its MACs."""

    sender: int
    ephemeral: bytes
    static: bytes
    timestamp: bytes

    def encode(self) -> bytes:
        """The message up to mac1."""
        return _INITIATION.pack(TYPE_INITIATION, self.sender, self.ephemeral, self.static, self.timestamp)

    @classmethod
    def decode_untrusted(cls, message: bytes) -> Self:
        """The fields of a whole message, MACs included and ignored; MessageError on a wrong size or type."""
        if len(message) != INITIATION_LEN:
            raise MessageError("malformed", f"an initiation has {INITIATION_LEN} bytes, not {len(message)}")
        kind, sender, ephemeral, static, timestamp = _INITIATION.unpack_from(message)
        if kind != TYPE_INITIATION:
            raise MessageError("malformed", f"type {kind} is not an initiation")
        return cls(sender, ephemeral, static, timestamp)


@dataclass(frozen=True, slots=True)
class Response:
    """The second message of a handshake, without its MACs."""

    sender: int
    receiver: int
    ephemeral: bytes
    empty: bytes

    def encode(self) -> bytes:
        """The message up to mac1."""
        return _RESPONSE.pack(TYPE_RESPONSE, self.sender, self.receiver, self.ephemeral, self.empty)

    @classmethod
    def decode_untrusted(cls, message: bytes) -> Self:
        """The fields of a whole message, MACs included and ignored; MessageError on a wrong size or type."""
        if len(message) != RESPONSE_LEN:
            raise MessageError("malformed", f"a response has {RESPONSE_LEN} bytes, not {len(message)}")
        kind, sender, receiver, ephemeral, empty = _RESPONSE.unpack_from(message)
        if kind != TYPE_RESPONSE:
            raise MessageError("malformed", f"type {kind} is not a response")
        return cls(sender, receiver, ephemeral, empty)


@dataclass(frozen=True, slots=True)
class CookieReply:
    """What a loaded device answers instead of working: prove your address first."""

    receiver: int
    nonce: bytes
    cookie: bytes

    def encode(self) -> bytes:
        return _COOKIE_REPLY.pack(TYPE_COOKIE_REPLY, self.receiver, self.nonce, self.cookie)

    @classmethod
    def decode_untrusted(cls, message: bytes) -> Self:
        """The fields of a whole message; MessageError on a wrong size or type."""
        if len(message) != COOKIE_REPLY_LEN:
            raise MessageError(
                "malformed", f"a cookie reply has {COOKIE_REPLY_LEN} bytes, not {len(message)}"
            )
        kind, receiver, nonce, cookie = _COOKIE_REPLY.unpack(message)
        if kind != TYPE_COOKIE_REPLY:
            raise MessageError("malformed", f"type {kind} is not a cookie reply")
        return cls(receiver, nonce, cookie)
