"""What all peers of one device share: its identity, its indices, its clockwork and its outbox.

`Device` makes one and hands it to each `Peer`; it decides nothing.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from raven.keys import PrivateKey
from raven.wg.constants import REKEY_TIMEOUT_JITTER_MAX
from raven.wg.cookie import CookieChecker
from raven.wg.endpoint import Endpoint
from raven.wg.keypair import Keypair
from raven.wg.outbox import Outbox
from raven.wg.primitives import DhPrivateKey
from raven.wg.reassembly import ReassemblyBudget
from raven.wg.staging import StagingBudget
from raven.wg.timers import Agenda

P = TypeVar("P")


class Identity:
    """The device's own key, and what is derived from it once."""

    __slots__ = ("checker", "dh", "private")

    def __init__(self, private: PrivateKey, random: Callable[[int], bytes]) -> None:
        self.private = private
        self.dh = DhPrivateKey(private)
        self.checker = CookieChecker(self.dh.public, random)


class Shared(Generic[P]):
    """One device's surroundings, as its peers (of type P) see them."""

    __slots__ = (
        "agenda",
        "handshakes",
        "identity",
        "keypairs",
        "mtu",
        "outbox",
        "random",
        "reassembly",
        "route_mtu",
        "staging",
        "tai64n",
        "up",
        "wall",
    )

    def __init__(
        self,
        *,
        tai64n: Callable[[], bytes],
        random: Callable[[int], bytes],
        wall: Callable[[], float],
        route_mtu: Callable[[Endpoint], int],
        mtu: int,
    ) -> None:
        self.tai64n = tai64n
        self.random = random
        self.wall = wall
        self.route_mtu = route_mtu
        self.mtu = mtu
        self.up = True  # False: the link is down, and no handshake may start
        self.identity: Identity | None = None
        self.outbox = Outbox()
        self.agenda = Agenda()
        self.handshakes: dict[int, P] = {}  # by the index in our initiation
        self.keypairs: dict[int, tuple[P, Keypair]] = {}  # by our index of the keypair
        self.staging = StagingBudget()
        self.reassembly = ReassemblyBudget()

    def new_index(self) -> int:
        """A random u32 that names no handshake and no keypair. Random, so that it tells nothing about us."""
        while True:
            index = int.from_bytes(self.random(4), "little")
            if index not in self.handshakes and index not in self.keypairs:
                return index

    def new_ephemeral(self) -> DhPrivateKey:
        return DhPrivateKey(PrivateKey.clamped(self.random(32)))

    def jitter(self) -> float:
        """Up to REKEY_TIMEOUT_JITTER_MAX seconds."""
        return int.from_bytes(self.random(4), "little") / (1 << 32) * REKEY_TIMEOUT_JITTER_MAX
