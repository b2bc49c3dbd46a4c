"""The join token: `raven1.<id>.<secret>.<pin>`, three values in unpadded base64url.

It lets a node and a gateway that never met trust each other: the node knows the gateway by the pin, the
gateway knows the node by the secret. The registry keeps the id and a hash of the secret, so a stolen
registry joins nobody; a plain hash is enough because the secret is random and long.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from raven.errors import RefusedError

PREFIX = "raven1"
ID_LEN = 6  # bytes; unique among the tokens of one registry, shown in lists
SECRET_LEN = 24  # bytes; past any guessing, and 32 characters without a remainder
PIN_LEN = hashlib.sha256().digest_size  # bytes
TEXT_MAX = 256  # characters looked at; a token has 92

_PARTS = (("id", ID_LEN), ("secret", SECRET_LEN), ("pin", PIN_LEN))


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A token in the hands of the one who may use it."""

    id: str
    secret: bytes = field(repr=False)
    pin: bytes  # SHA-256 of the SubjectPublicKeyInfo of the gateway's CA

    def text(self) -> str:
        """The token as it is handed over; a secret."""
        return f"{PREFIX}.{self.id}.{encode(self.secret)}.{encode(self.pin)}"

    def __str__(self) -> str:
        return repr(self)


def new_token(pin: bytes, *, random: Callable[[int], bytes]) -> JoinToken:
    """A fresh token for the CA whose public key hashes to `pin`."""
    assert len(pin) == PIN_LEN
    token_id = encode(random(ID_LEN))
    while token_id.startswith("-"):  # a command that names it would take it for an option
        token_id = encode(random(ID_LEN))
    return JoinToken(token_id, random(SECRET_LEN), pin)


def parse_token_untrusted(text: str) -> JoinToken:
    """The token that `text` spells; RefusedError "token-malformed" says what is wrong, not what it was."""
    parts = text.split(".") if len(text) <= TEXT_MAX else []
    if len(parts) != 4 or parts[0] != PREFIX:
        raise RefusedError("token-malformed", f"a token reads {PREFIX}.ID.SECRET.PIN; this text does not")
    values = []
    for (name, length), part in zip(_PARTS, parts[1:], strict=True):
        value = decode_untrusted(part)
        if value is None or len(value) != length:
            expected = len(encode(bytes(length)))
            raise RefusedError(
                "token-malformed",
                f"the token's {name} has {len(part)} characters, expected {expected} of base64url;"
                " is it cut short?",
            )
        values.append(value)
    return JoinToken(parts[1], values[1], values[2])


def hash_secret(secret: bytes) -> bytes:
    """What is stored in place of the secret."""
    return hashlib.sha256(secret).digest()


def secret_matches(secret: bytes, stored_hash: bytes) -> bool:
    """Whether `secret` is the one that was hashed, in time that does not depend on where they differ."""
    return hmac.compare_digest(hash_secret(secret), stored_hash)


def pin_text(pin: bytes) -> str:
    """A pin for people, as it stands in a token."""
    return encode(pin)


def encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def decode_untrusted(text: str) -> bytes | None:
    """The bytes that encode to exactly `text`; a second spelling of the same bytes is None like garbage."""
    try:
        value = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if encode(value) == text else None
