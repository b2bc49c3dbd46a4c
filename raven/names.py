"""What a node, a gateway and a cluster may be called.

One definition for the messages of the wire, the URI in a certificate and the registry, so that a name one
of them accepts is a name to all of them. Names are compared byte for byte, so only one spelling exists:
lower case.
"""

import re
from typing import Final

# A Kubernetes node name (RFC 1123 subdomain).
NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z"
# One DNS label: the authority of a raven:// URI, and short enough for an X.509 common name.
CLUSTER_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"

_NAME = re.compile(NAME_PATTERN, re.ASCII)
_CLUSTER = re.compile(CLUSTER_PATTERN, re.ASCII)


def is_name(text: str) -> bool:
    """Whether a node or a gateway may be called `text`."""
    return _NAME.match(text) is not None


def is_cluster(text: str) -> bool:
    """Whether a cluster may be called `text`."""
    return _CLUSTER.match(text) is not None
