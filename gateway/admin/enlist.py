"""`raven-gateway join`: makes this gateway's keys, joins at the gateway with the CA, keeps what it got."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from raven.config import Address
from raven.errors import ConfigError
from raven.keys import PrivateKey
from raven.names import is_name
from raven.net.joining import join_through
from raven.net.proxy import find_ways
from raven.pki.csr import key_pem, load_key, new_key
from raven.pki.identity import Role
from raven.pki.token import parse_token_untrusted
from raven.registry.follower_state import FollowerDraft, FollowerFile

Random = Callable[[int], bytes]


async def enlist(
    directory: Path,
    *,
    followed: Address,
    advertise: Address,
    token: str,
    name: str,
    force: bool = False,
    now: Callable[[], float] = time.time,
    random: Random = os.urandom,
) -> None:
    """Joins as gateway `name` and writes the identity into `directory`; `force` replaces one that is there.

    Errors as of `join_through`; ConfigError for an unusable name, StateError for an unusable directory.
    """
    if not is_name(name):
        raise ConfigError(f"--name {name!r}: expected lower-case letters, digits, '-' and '.', at most 253")
    parsed = parse_token_untrusted(token)
    draft = FollowerDraft(directory, force=force, make_keys=lambda: _make_keys(random), now=now())
    try:
        answer = await join_through(
            followed,
            shown=str(followed),
            ways=find_ways(None, os.environ),
            token=parsed,
            node=name,
            key=load_key(draft.key_pem),
            now=now,
            role=Role.GATEWAY,
            address=str(advertise),
        )
        draft.finish(
            certificate_pem=answer.certificate_pem,
            ca_pem=answer.ca_pem,
            follower=FollowerFile(
                name=name, cluster=answer.cluster, address=str(advertise), followed=str(followed)
            ),
        )
    finally:
        draft.close()


def _make_keys(random: Random) -> tuple[bytes, PrivateKey]:
    return key_pem(new_key(random)), PrivateKey.clamped(random(32))
