"""Making join tokens: `raven-gateway token create` and the join command a gateway prints on its first start."""

import os
from collections.abc import Callable
from pathlib import Path

TTL_DEFAULT = 3600.0  # seconds
TTL_MAX = 366 * 86400.0  # seconds; a token that outlives the operator's memory of it is a back door


def parse_ttl(text: str) -> float:
    """Seconds in `90s`, `15m`, `1h` or `7d`; ConfigError otherwise."""
    raise NotImplementedError


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
    gateway state yet, ConfigError for a bad node name or ttl.
    """
    raise NotImplementedError
