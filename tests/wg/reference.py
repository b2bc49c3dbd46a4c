"""The handshake a second time, from the paper's formulas, to be compared with `raven.wg` byte by byte.

Naive on purpose, and it shares no code with what it checks: its own HMAC, its own key schedule, byte layouts
written out. Section 5.4 of https://www.wireguard.com/papers/wireguard.pdf, names as there.
"""

import hashlib
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


def blake(data: bytes) -> bytes:
    return hashlib.blake2s(data).digest()


def mac16(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def hmac(key: bytes, data: bytes) -> bytes:
    """RFC 2104 with BLAKE2s; keys here are never longer than its block of 64 bytes."""
    key = key.ljust(64, b"\0")
    inner = blake(bytes(byte ^ 0x36 for byte in key) + data)
    return blake(bytes(byte ^ 0x5C for byte in key) + inner)


def kdf(count: int, key: bytes, data: bytes) -> list[bytes]:
    secret = hmac(key, data)
    outputs = [hmac(secret, b"\x01")]
    while len(outputs) < count:
        outputs.append(hmac(secret, outputs[-1] + bytes([len(outputs) + 1])))
    return outputs


def dh(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seal(key: bytes, plaintext: bytes, associated: bytes, counter: int = 0) -> bytes:
    nonce = b"\0\0\0\0" + counter.to_bytes(8, "little")
    return ChaCha20Poly1305(key).encrypt(nonce, plaintext, associated)


def initiation(
    static_i: bytes, ephemeral_i: bytes, public_r: bytes, *, index: int, timestamp: bytes
) -> tuple[bytes, bytes, bytes]:
    """Section 5.4.2 and 5.4.4: the message with mac1 and no cookie, and C_i, H_i after it."""
    c = blake(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    h = blake(c + b"WireGuard v1 zx2c4 Jason@zx2c4.com")
    h = blake(h + public_r)
    e = public_of(ephemeral_i)
    (c,) = kdf(1, c, e)
    h = blake(h + e)
    c, k = kdf(2, c, dh(ephemeral_i, public_r))
    msg_static = seal(k, public_of(static_i), h)
    h = blake(h + msg_static)
    c, k = kdf(2, c, dh(static_i, public_r))
    msg_timestamp = seal(k, timestamp, h)
    h = blake(h + msg_timestamp)
    message = b"\x01\0\0\0" + struct.pack("<I", index) + e + msg_static + msg_timestamp
    message += mac16(blake(b"mac1----" + public_r), message)
    return message + bytes(16), c, h


def response(
    c: bytes,
    h: bytes,
    initiation_message: bytes,
    ephemeral_r: bytes,
    public_i: bytes,
    psk: bytes,
    *,
    index: int,
) -> tuple[bytes, bytes, bytes]:
    """Section 5.4.3: the message, and the transport keys initiator to responder, responder to initiator."""
    e_i = initiation_message[8:40]
    e = public_of(ephemeral_r)
    (c,) = kdf(1, c, e)
    h = blake(h + e)
    (c,) = kdf(1, c, dh(ephemeral_r, e_i))
    (c,) = kdf(1, c, dh(ephemeral_r, public_i))
    c, tau, k = kdf(3, c, psk)
    h = blake(h + tau)
    msg_empty = seal(k, b"", h)
    message = b"\x02\0\0\0" + struct.pack("<I", index) + initiation_message[4:8] + e + msg_empty
    message += mac16(blake(b"mac1----" + public_i), message)
    first, second = kdf(2, c, b"")
    return message + bytes(16), first, second


def transport(key: bytes, index: int, counter: int, padded: bytes) -> bytes:
    """Section 5.4.6."""
    return b"\x04\0\0\0" + struct.pack("<IQ", index, counter) + seal(key, padded, b"", counter)
