"""`raven-agent join`: makes the node's keys, joins through a gateway, and puts the identity on disk at once.

What is said to the gateway stands in `raven.net.joining`. Runs once and exits, so it may import
`cryptography`, which the running agent must not.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raven.config import Address
from raven.errors import ConfigError
from raven.keys import PrivateKey
from raven.names import is_name
from raven.net.joining import join_through
from raven.net.proxy import DIRECT, Ways
from raven.pki.csr import key_pem, load_key, new_key
from raven.pki.token import parse_token_untrusted
from raven.registry.agent_state import AgentFile, AgentState, JoinDraft
from raven.wg.primitives import DhPrivateKey

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Joined:
    """A join that succeeded and is on disk."""

    state: AgentState
    clock_skew: float  # seconds the gateway's clock is ahead of ours


async def join(
    directory: Path,
    *,
    gateway: Address,
    token: str,
    node: str,
    force: bool = False,
    ways: Ways = DIRECT,
    now: Callable[[], float] = time.time,
    random: Random = os.urandom,
) -> Joined:
    """Joins as `node` through `gateway` and writes the identity into `directory`.

    `force` replaces an identity that is already there. Errors as of `join_through`; ConfigError for an
    unusable name, StateError for an unusable directory.
    """
    check_node(node)
    parsed = parse_token_untrusted(token.strip())
    draft = JoinDraft(directory, force=force, make_keys=lambda: make_keys(random), now=now())
    try:
        answer = await join_through(
            gateway,
            shown=str(gateway),
            ways=ways,
            token=parsed,
            node=node,
            key=load_key(draft.key_pem),
            now=now,
        )
        state = draft.finish(
            certificate_pem=answer.certificate_pem,
            ca_pem=answer.ca_pem,
            agent=AgentFile(
                node=node,
                cluster=answer.cluster,
                gateways=answer.gateways or [str(gateway)],
                wg_public_key=DhPrivateKey(draft.wg_private_key).public.to_base64(),
                time_floor=answer.not_before,
            ),
        )
        return Joined(state, answer.clock_skew)
    except BaseException:
        draft.close()
        raise


def check_node(node: str) -> None:
    """ConfigError for what no node can be called."""
    if not is_name(node):
        raise ConfigError(f"--node {node!r}: expected lower-case letters, digits, '-' and '.', at most 253")


def make_keys(random: Random) -> tuple[bytes, PrivateKey]:
    """The node's TLS key in PEM, and its WireGuard key."""
    return key_pem(new_key(random)), PrivateKey.clamped(random(32))
