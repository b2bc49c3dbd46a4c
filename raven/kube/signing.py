"""What agents and gateways agree on about certificate requests: the signer, who may ask, and their names.

The agent's side stands in `requesting`, the gateway's in `gateway.controllers.certificates`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

SIGNER: Final = "raven.openyurt.io/agent"
NODE_ANNOTATION: Final = "raven.openyurt.io/node"  # of a bootstrap token: the only node it serves

ASKED_USAGES: Final = ("client auth", "digital signature")
ALLOWED_USAGES: Final = frozenset({"digital signature", "key encipherment", "client auth"})

# Who the API server says has asked, in its words: a prefix of the user's name, and a group that goes with it.
NODE_USER, NODE_GROUP = "system:node:", "system:nodes"
TOKEN_USER, TOKEN_GROUP = "system:bootstrap:", "system:bootstrappers"

NODE_MAX: Final = (
    64  # characters of a node's name that fit the common name of a request (RFC 5280, ub-common-name)
)

_BOOTSTRAP_TOKEN = re.compile(r"([a-z0-9]{6})\.[a-z0-9]{16}", re.ASCII)


def request_name(node: str, *, asker: str, key_hash: bytes) -> str:
    """The name of the request of `asker` for `node` with this key: the same each time it is asked again.

    Nobody else can have taken it before, since nobody else knows the key.
    """
    digest = hashlib.sha256(key_hash + asker.encode()).hexdigest()[:16]
    return f"raven-agent-{node}-{digest}"


def bootstrap_token_id(text: str) -> str:
    """The public part of a bootstrap token of Kubernetes, ID.SECRET; "" for what is none."""
    found = _BOOTSTRAP_TOKEN.fullmatch(text)
    return found[1] if found else ""
