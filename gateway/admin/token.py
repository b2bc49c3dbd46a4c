"""Making, listing and revoking join tokens, for `raven-gateway token` and a gateway's first start.

Works on the state directory of a gateway that runs as well as of one that does not: it takes no lock, and the
registry's own transactions keep two processes apart.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from gateway.admin.opening import opened
from raven.errors import ConfigError, PeerError, RefusedError
from raven.names import is_name
from raven.pki.token import hash_secret, new_token
from raven.registry.follower_state import check_leads
from raven.registry.gateway_state import read_pin
from raven.registry.interface import AuditRecord, Registry, TokenRecord
from raven.topology.model import parse_pod_networks_untrusted

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
    role: str = "node",
    ttl: float = TTL_DEFAULT,
    reusable: bool = False,
    pod_cidrs: Sequence[str] = (),
    now: float,
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """A new token for the gateway whose state is in `directory`, running or not; a secret.

    Bound to `node`, it also lets that node join again when its name is taken; with the `role` "gateway" that
    is a gateway's name. `pod_cidrs` are the ranges in which the node that joins may claim pod networks.
    StateError when there is no gateway's state, or the registry cannot take it; ConfigError for a bad name or
    range.
    """
    check_leads(directory, now=now)
    pin = read_pin(directory, now=now)
    with opened(directory, now=now) as registry:
        return add_token(
            registry,
            pin,
            node=node,
            role=role,
            ttl=ttl,
            reusable=reusable,
            pod_cidrs=pod_cidrs,
            now=now,
            random=random,
        )


def add_token(
    registry: Registry,
    pin: bytes,
    *,
    node: str | None = None,
    role: str = "node",
    ttl: float = TTL_DEFAULT,
    reusable: bool = False,
    pod_cidrs: Sequence[str] = (),
    now: float,
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """The same, for a running gateway that has its registry open; `pin` is `state.authority.pin`."""
    if node is not None and not is_name(node):
        raise ConfigError(f"--{role} {node!r}: expected lower-case letters, digits, '-' and '.', at most 253")
    token = new_token(pin, random=random)
    registry.add_token(
        TokenRecord(
            id=token.id,
            secret_hash=hash_secret(token.secret),
            node=node,
            reusable=reusable,
            created=now,
            expires=now + ttl,
            pod_cidrs=checked_pod_cidrs(pod_cidrs),
            role=role,
        )
    )
    registry.append_audit(
        [_audit("token-created", token.id, node or "", now, "reusable" if reusable else "")]
    )
    return token.text()


def checked_pod_cidrs(texts: Sequence[str]) -> tuple[str, ...]:
    """The ranges in their one spelling; ConfigError for one that no node may carry."""
    try:
        return tuple(map(str, parse_pod_networks_untrusted(texts)))
    except PeerError as error:
        raise ConfigError(f"--pod-cidr: {error}") from error


class TokenEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A token as `raven-gateway token list` shows it; times are Unix seconds."""

    id: str
    state: Literal["good", "used", "expired"]
    role: str  # what its holder becomes: a node, or a gateway
    node: str | None  # the only one it serves
    reusable: bool
    created: float
    expires: float
    uses: int
    used: float | None  # the last time
    used_by: str | None  # the node that did


def list_tokens(directory: Path, *, now: float) -> list[TokenEntry]:
    """Every token that is remembered, newest first; StateError when there is no gateway's state."""
    with opened(directory, now=now) as registry:
        return [_entry(token, now) for token in registry.tokens()]


def revoke_token(directory: Path, token_id: str, *, now: float) -> None:
    """Nobody joins with it any more; who has joined stays. RefusedError "token-unknown"."""
    check_leads(directory, now=now)
    with opened(directory, now=now) as registry:
        if not registry.remove_token(token_id):
            raise RefusedError(
                "token-unknown", f"there is no token {token_id}; `raven-gateway token list` shows all"
            )
        registry.append_audit([_audit("token-revoked", token_id, "", now)])


def _entry(token: TokenRecord, now: float) -> TokenEntry:
    used_up = token.uses and not token.reusable
    return TokenEntry(
        id=token.id,
        state="used" if used_up else "expired" if now >= token.expires else "good",
        role=token.role,
        node=token.node,
        reusable=token.reusable,
        created=token.created,
        expires=token.expires,
        uses=token.uses,
        used=token.used,
        used_by=token.used_by,
    )


def _audit(event: str, token_id: str, node: str, now: float, detail: str = "") -> AuditRecord:
    return AuditRecord(
        time=now, event=event, node=node, asker="local", target=token_id, verdict="allowed", detail=detail
    )
