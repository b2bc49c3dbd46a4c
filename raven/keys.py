"""Curve25519 keys as WireGuard names them: 32 bytes, base64 for people, hex for the UAPI.

Types and text only. Arithmetic on keys is in `raven.wg.primitives`; making them takes randomness from the
caller.
"""

import base64
import binascii
from typing import Self

KEY_LEN = 32  # bytes


class _Key(bytes):
    """32 bytes with WireGuard's two spellings; subclasses differ in what may be shown."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Self:
        if len(raw) != KEY_LEN:
            raise ValueError(f"a {cls.__name__} has {KEY_LEN} bytes, not {len(raw)}")
        return super().__new__(cls, raw)

    @classmethod
    def from_base64(cls, text: str) -> Self:
        """The key that `wg` prints as `text`; ValueError when it is not 44 characters of base64."""
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"a {cls.__name__} is 44 characters of base64: {error}") from error
        return cls(raw)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """The key that the UAPI spells as `text`; ValueError when it is not 64 hexadecimal digits."""
        try:
            raw = bytes.fromhex(text)
        except ValueError as error:
            raise ValueError(f"a {cls.__name__} is 64 hexadecimal digits: {error}") from error
        return cls(raw)

    def to_base64(self) -> str:
        return base64.b64encode(self).decode("ascii")


class PublicKey(_Key):
    """A peer's identity; safe to show."""

    def __repr__(self) -> str:
        return f"PublicKey({self.to_base64()[:8]}…)"

    __str__ = __repr__


class _SecretKey(_Key):
    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return repr(self)


class PrivateKey(_SecretKey):
    """A node's own secret; never leaves its host."""

    @classmethod
    def clamped(cls, raw: bytes) -> Self:
        """The private key made of 32 random bytes (RFC 7748, section 5, decodeScalar25519)."""
        key = bytearray(raw)
        key[0] &= 248
        key[31] = (key[31] & 127) | 64
        return cls(bytes(key))


class PresharedKey(_SecretKey):
    """The optional symmetric secret of a pair of peers; all zero means none."""
