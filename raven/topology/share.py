"""Which of several devices of one hub carries which node: the same answer everywhere, and after a restart.

Rendezvous hashing: each device and the node's name make a number, and the highest wins. One device more or
less moves only the nodes that it wins or leaves, and nothing has to be remembered.
"""

import hashlib
from collections.abc import Sequence

from raven.keys import PublicKey


def device_of(node: str, devices: Sequence[PublicKey]) -> PublicKey:
    """The device that carries `node`; `devices` is not empty, and its order does not matter."""
    return max(devices, key=lambda device: (_weight(node, device), device))


def _weight(node: str, device: PublicKey) -> bytes:
    return hashlib.sha256(b"raven device share" + device + node.encode()).digest()
