"""Making join tokens, for `raven-gateway token create` and the command a gateway prints on its first start.

Works on the state directory of a gateway that runs as well as of one that does not: it takes no lock, and the
registry's own transactions keep two processes apart.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from raven.errors import ConfigError
from raven.names import is_name
from raven.pki.token import hash_secret, new_token
from raven.registry.gateway_state import read_pin, registry_path
from raven.registry.interface import AuditRecord, Registry, TokenRecord
from raven.registry.sqlite import SqliteRegistry

TTL_DEFAULT = 3600.0  # seconds
TTL_MAX = 366 * 86400.0  # seconds; a token that outlives its maker's memory of it is a back door

_TTL = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}  # seconds


def parse_ttl(text: str) -> float:
    """Seconds in `90s`, `15m`, `1h` or `7d`; ConfigError otherwise."""
    match = _TTL.fullmatch(text)
    if match is None:
        raise ConfigError(f"--ttl {text}: expected a number and s, m, h or d, such as 90s or 7d")
    seconds = int(match[1]) * _UNITS[match[2]]
    if not 0 < seconds <= TTL_MAX:
        raise ConfigError(f"--ttl {text}: expected more than nothing and at most {TTL_MAX / 86400:.0f}d")
    return seconds


def create_token(
    directory: Path,
    *,
    node: str | None = None,
    ttl: float = TTL_DEFAULT,
    reusable: bool = False,
    now: float,
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """A new token for the gateway whose state is in `directory`, running or not; a secret.

    Bound to `node`, it also lets that node join again when its name is taken. StateError when there is no
    gateway's state, or the registry cannot take it; ConfigError for a bad node name.
    """
    pin = read_pin(directory, now=now)
    registry = SqliteRegistry(registry_path(directory), now=now, create=False)
    try:
        return add_token(registry, pin, node=node, ttl=ttl, reusable=reusable, now=now, random=random)
    finally:
        registry.close()


def add_token(
    registry: Registry,
    pin: bytes,
    *,
    node: str | None = None,
    ttl: float = TTL_DEFAULT,
    reusable: bool = False,
    now: float,
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """The same, for a running gateway that has its registry open; `pin` is `state.authority.pin`."""
    if node is not None and not is_name(node):
        raise ConfigError(f"--node {node!r}: expected lower-case letters, digits, '-' and '.', at most 253")
    token = new_token(pin, random=random)
    registry.add_token(
        TokenRecord(
            id=token.id,
            secret_hash=hash_secret(token.secret),
            node=node,
            reusable=reusable,
            created=now,
            expires=now + ttl,
        )
    )
    registry.append_audit(
        [
            AuditRecord(
                time=now,
                event="token-created",
                node=node or "",
                asker="local",
                target=token.id,
                verdict="allowed",
                detail="reusable" if reusable else "",
            )
        ]
    )
    return token.text()
