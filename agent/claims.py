"""Which uplink of an agent leads to which gateway: two addresses may be one gateway's, one tunnel is enough.

The uplinks of an agent share one `Claims`. Who finds the gateway taken stands by until a claim is given up.
"""

from __future__ import annotations

from typing import Protocol

import trio

from raven.config import Address
from raven.errors import PeerError


class Claimant(Protocol):
    """An uplink."""

    address: Address


class Elsewhere(PeerError):
    """The gateway at this address has a tunnel by another one."""


class Claims:
    """Which uplink leads to which gateway, by the name in its certificate: one each."""

    def __init__(self) -> None:
        self.given_up = trio.Event()  # the next time any is
        self._held: dict[str, Claimant] = {}

    def check(self, name: str, uplink: Claimant) -> None:
        """Elsewhere when another uplink leads there."""
        if (holder := self._held.get(name, uplink)) is not uplink:
            raise Elsewhere("elsewhere", f"gateway {name} is reached at {holder.address} already")

    def take(self, name: str, uplink: Claimant) -> None:
        """As `check`; from now on this uplink leads there."""
        self.check(name, uplink)
        self._held[name] = uplink

    def give_up(self, uplink: Claimant) -> None:
        self._held = {name: holder for name, holder in self._held.items() if holder is not uplink}
        self.given_up.set()
        self.given_up = trio.Event()
