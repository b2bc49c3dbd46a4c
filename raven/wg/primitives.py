"""The paper's functions DH, AEAD, XAEAD, HASH, MAC, HMAC and KDF over `cryptography` and hashlib.

The only module here that names a cryptographic library, except that `keypair` calls its AEAD directly for
speed. Failures leave as our own two exceptions. CPython cannot wipe memory: forgetting a key means dropping
the last reference to it.
"""

import hashlib
import hmac as _hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from raven.errors import PeerError
from raven.keys import PrivateKey, PublicKey

HASH_LEN = 32  # bytes of BLAKE2s
MAC_LEN = 16  # bytes
XNONCE_LEN = 24  # bytes

NONCE_ZERO = bytes(12)  # every handshake key seals once, section 5.4


class AuthenticationError(PeerError):
    """Sealed bytes were not made with this key, or were changed on the way."""

    def __init__(self) -> None:
        super().__init__("authentication", "sealed bytes do not authenticate")


class WeakKeyError(PeerError):
    """A public key of low order: the shared secret would be zero whatever our private key is."""

    def __init__(self) -> None:
        super().__init__("weak-key", "the public key is a point of low order")


class DhPrivateKey:
    """A Curve25519 private key ready for use, with its public key."""

    __slots__ = ("_key", "public")

    def __init__(self, private: PrivateKey) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    def exchange(self, public: bytes) -> bytes:
        """DH(private, public), 32 bytes; WeakKeyError when the result is all zero (RFC 7748, section 6.1)."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise WeakKeyError from error


def aead_seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """AEAD(key, 0, plaintext, associated): ChaCha20-Poly1305 of RFC 8439 with counter zero."""
    return ChaCha20Poly1305(key).encrypt(NONCE_ZERO, plaintext, associated)


def aead_open(key: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """The plaintext that `aead_seal` sealed; AuthenticationError."""
    try:
        return ChaCha20Poly1305(key).decrypt(NONCE_ZERO, ciphertext, associated)
    except InvalidTag as error:
        raise AuthenticationError from error


def xaead_seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """XAEAD: XChaCha20-Poly1305 with a 24-byte nonce (draft-irtf-cfrg-xchacha-03)."""
    subkey = hchacha20(key, nonce[:16])
    return ChaCha20Poly1305(subkey).encrypt(b"\0\0\0\0" + nonce[16:], plaintext, associated)


def xaead_open(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """The plaintext that `xaead_seal` sealed; AuthenticationError."""
    subkey = hchacha20(key, nonce[:16])
    try:
        return ChaCha20Poly1305(subkey).decrypt(b"\0\0\0\0" + nonce[16:], ciphertext, associated)
    except InvalidTag as error:
        raise AuthenticationError from error


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """The 32-byte subkey of the XChaCha draft, section 2.2; `nonce` has 16 bytes.

    HChaCha20 is the ChaCha20 block without its last step, the addition of the initial state. So we take a
    block of key stream and subtract that state again, from the words that HChaCha20 keeps: 0 to 3 (the
    constant) and 12 to 15 (where ChaCha20 has its counter and nonce, in the same 16 bytes that we pass).
    """
    block = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", block)
    state = struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<4I", nonce)
    kept = words[:4] + words[12:]
    return struct.pack("<8I", *((word - start) & 0xFFFFFFFF for word, start in zip(kept, state, strict=True)))


def hash_(*parts: bytes) -> bytes:
    """HASH(parts joined): BLAKE2s, 32 bytes."""
    return hashlib.blake2s(b"".join(parts)).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """MAC(key, data): keyed BLAKE2s, 16 bytes. Not HMAC."""
    return hashlib.blake2s(data, key=key, digest_size=MAC_LEN).digest()


def equal(a: bytes, b: bytes) -> bool:
    """Comparison in constant time."""
    return _hmac.compare_digest(a, b)


def kdf1(key: bytes, data: bytes) -> bytes:
    """KDF1 of section 5.4: HKDF with HMAC-BLAKE2s, first output."""
    return _hmac_blake2s(_hmac_blake2s(key, data), b"\x01")


def kdf2(key: bytes, data: bytes) -> tuple[bytes, bytes]:
    """KDF2: two outputs of 32 bytes."""
    secret = _hmac_blake2s(key, data)
    first = _hmac_blake2s(secret, b"\x01")
    return first, _hmac_blake2s(secret, first + b"\x02")


def kdf3(key: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    """KDF3: three outputs of 32 bytes."""
    secret = _hmac_blake2s(key, data)
    first = _hmac_blake2s(secret, b"\x01")
    second = _hmac_blake2s(secret, first + b"\x02")
    return first, second, _hmac_blake2s(secret, second + b"\x03")


def _hmac_blake2s(key: bytes, data: bytes) -> bytes:
    return _hmac.digest(key, data, "blake2s")
