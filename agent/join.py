"""`raven-agent join`: first contact with a gateway, by a token that carries the hash of its CA's key.

Nothing is said to the other end before it has shown a CA that matches the pin, and a certificate of that CA
on the very TLS connection. Runs once and exits, so it may import `cryptography`, which the running agent
must not.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raven.registry.state_dir import AgentState


@dataclass(frozen=True, slots=True)
class Joined:
    """A join that succeeded and is on disk."""

    state: AgentState
    clock_skew: float  # seconds the gateway's clock is ahead of ours


async def join(
    directory: Path,
    *,
    gateway: str,
    token: str,
    node: str,
    force: bool = False,
    now: Callable[[], float] = time.time,
    random: Callable[[int], bytes] = os.urandom,
) -> Joined:
    """Joins as `node` through the gateway at `gateway` (HOST:PORT) and writes the identity into
    `directory`.

    `force` replaces an identity that is already there. RefusedError when the gateway refuses, or is not the
    one the token is for; PeerError when it cannot be reached or misbehaves; ConfigError, StateError as
    everywhere.
    """
    raise NotImplementedError
