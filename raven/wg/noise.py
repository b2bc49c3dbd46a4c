"""The Noise symmetric state that both handshake roles run: chaining key, hash, and the key of the moment.

Noise specification, revision 34, section 5.2, for the one pattern WireGuard uses. Every key here seals
exactly once, so there is no counter. It knows nothing of messages or peers.
"""

from typing import Self

from raven.wg.constants import CONSTRUCTION, IDENTIFIER
from raven.wg.primitives import aead_open, aead_seal, hash_, kdf1, kdf2, kdf3

_INITIAL_CHAINING_KEY = hash_(CONSTRUCTION)
_EXPORT_LABEL = b"raven exporter v1"


class SymmetricState:
    """Mixes what both ends see and share; `split` gives the two transport keys."""

    __slots__ = ("_chaining_key", "_hash", "_key")

    def __init__(self, responder_public: bytes, *, prologue: bytes = IDENTIFIER) -> None:
        """Starts with the pre-message `<- s`: both ends know the responder's static key."""
        self._chaining_key = _INITIAL_CHAINING_KEY
        self._hash = hash_(hash_(_INITIAL_CHAINING_KEY, prologue), responder_public)
        self._key = b""

    def copy(self) -> Self:
        """An independent state, so that a message that fails to authenticate leaves no trace in this one."""
        twin = object.__new__(type(self))
        twin._chaining_key, twin._hash, twin._key = self._chaining_key, self._hash, self._key
        return twin

    def mix_hash(self, data: bytes) -> None:
        self._hash = hash_(self._hash, data)

    def mix_ephemeral(self, public: bytes) -> None:
        """Token `e` of a PSK pattern: hashed, and mixed into the key as well (Noise, section 9.2)."""
        self._hash = hash_(self._hash, public)
        self._chaining_key = kdf1(self._chaining_key, public)

    def mix_key(self, secret: bytes) -> None:
        """A token that is a Diffie-Hellman result."""
        self._chaining_key, self._key = kdf2(self._chaining_key, secret)

    def mix_key_and_hash(self, secret: bytes) -> None:
        """Token `psk`."""
        self._chaining_key, temporary, self._key = kdf3(self._chaining_key, secret)
        self._hash = hash_(self._hash, temporary)

    def seal(self, plaintext: bytes) -> bytes:
        """EncryptAndHash."""
        ciphertext = aead_seal(self._key, plaintext, self._hash)
        self._hash = hash_(self._hash, ciphertext)
        return ciphertext

    def open(self, ciphertext: bytes) -> bytes:
        """DecryptAndHash; AuthenticationError."""
        plaintext = aead_open(self._key, ciphertext, self._hash)
        self._hash = hash_(self._hash, ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Transport keys: initiator to responder, responder to initiator."""
        return kdf2(self._chaining_key, b"")

    def export(self) -> bytes:
        """A secret that both ends share beside the transport keys, and that says nothing about them.

        As in `split`, the chaining key is HKDF's salt; the input that is empty there has a label here, so
        both are outputs of one pseudorandom function at different points.
        """
        return kdf1(self._chaining_key, _EXPORT_LABEL)
