"""The access token of an O&M client: `ravenop1.<id>.<secret>`, two values in unpadded base64url.

It goes into Proxy-Authorization, as a bearer token or as the password of Basic. The registry keeps the id
and a hash of the secret; a plain hash is enough because the secret is random and long.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field

from raven.errors import RefusedError
from raven.pki.token import ID_LEN, SECRET_LEN, decode_untrusted, encode

PREFIX = "ravenop1"
TEXT_MAX = 256  # characters looked at; a token has 50


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token in the hands of the one who may use it."""

    id: str
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """The token as it is handed over; a secret."""
        return f"{PREFIX}.{self.id}.{encode(self.secret)}"

    def __str__(self) -> str:
        return repr(self)


def new_access_token(*, random: Callable[[int], bytes]) -> AccessToken:
    token_id = encode(random(ID_LEN))
    while token_id.startswith("-"):  # a command that names it would take it for an option
        token_id = encode(random(ID_LEN))
    return AccessToken(token_id, random(SECRET_LEN))


def parse_access_token_untrusted(text: str) -> AccessToken:
    """The token that `text` spells; RefusedError "token-malformed" says nothing of what it was."""
    parts = text.split(".") if len(text) <= TEXT_MAX else []
    if len(parts) == 3 and parts[0] == PREFIX:
        token_id, secret = map(decode_untrusted, parts[1:])
        if (
            token_id is not None
            and secret is not None
            and (len(token_id), len(secret)) == (ID_LEN, SECRET_LEN)
        ):
            return AccessToken(parts[1], secret)
    raise RefusedError("token-malformed", f"an access token reads {PREFIX}.ID.SECRET; this text does not")


def token_in_credentials_untrusted(value: str) -> AccessToken:
    """The token in the value of an Authorization header: Bearer, or the password of Basic (RFC 7617).

    The user of Basic means nothing. RefusedError "token-malformed".
    """
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() == "bearer":
        return parse_access_token_untrusted(rest.strip())
    if scheme.lower() == "basic" and len(rest) <= 2 * TEXT_MAX:
        try:
            decoded = base64.b64decode(rest.strip(), validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            decoded = ""
        return parse_access_token_untrusted(decoded.partition(":")[2])
    raise RefusedError("token-malformed", "the credentials are neither Bearer nor Basic with an access token")
