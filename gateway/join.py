"""The gateway's end of a join: shows its CA, takes a token and a key, hands out a certificate.

Above it the tunnel server, which accepted a TLS connection with ALPN raven-join/1; below it the CA
and the registry. It never raises for what the other end does: each ending is a JoinResult to count and log.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from raven.registry.interface import Registry
from raven.registry.state_dir import GatewayState

STEP_TIMEOUT = 10.0  # seconds; each message in, each message out


@dataclass(frozen=True, slots=True)
class JoinResult:
    """How one join ended."""

    verdict: str  # "accepted", or the constant word of the refusal, for counters
    message: str  # a sentence
    node: str = ""  # the name asked for, "" when it never got that far


async def serve_join(
    stream: trio.abc.Stream,
    *,
    state: GatewayState,
    registry: Registry,
    gateways: Sequence[str],
    peer: str,
    now: Callable[[], float] = time.time,
    random: Callable[[int], bytes] = os.urandom,
) -> JoinResult:
    """Serves one join over `stream` (TLS, handshake done) and closes it.

    `gateways` are the HOST:PORTs the agent shall dial; `peer` is the address for the audit.
    """
    raise NotImplementedError
