"""Places for connections that have not said who they are: few in all, fewer for one network, none for ever.

Whoever floods a listener with half-open connections may fill the places of its own networks, not
everybody's:

- a network has at most `each_max` places;
- between `low` and `high` places in all, networks that have some already are refused at random, the more
  often the fuller it is (random early detection, Floyd and Jacobson 1993, with connections in place of
  packets);
- at `high` the network that has most loses its oldest place to the newcomer.

So a lone agent gets in while thousands wait: its network has no place yet. What it needs is to be done
before `high` more networks have come.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from raven.errors import RefusedError
from raven.net.source_network import IPNetwork, network_of_host


@dataclass(eq=False, slots=True)
class Place:
    """One connection's, until it has said who it is."""

    network: IPNetwork | None  # None for a Unix socket, and for who left before it could be asked
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    held: bool = True


class Strangers:
    """The places of one listener."""

    def __init__(
        self, *, low: int, high: int, each_max: int, chance: Callable[[], float] = random.random
    ) -> None:
        assert each_max > 0
        assert 0 < low < high
        self._low = low
        self._high = high
        self._each_max = each_max
        self._chance = chance  # uniform in [0, 1)
        self._places: dict[Place, None] = {}  # the oldest first
        self._by_network: Counter[IPNetwork | None] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    @contextmanager
    def place(self, host: str) -> Iterator[Place]:
        """Around all that happens until the connection from `host` has said who it is.

        RefusedError "too-many-from-network" or "refused-early" at once, "displaced" later, when the block was
        cancelled for somebody else.
        """
        place = self._admit(network_of_host(host))
        try:
            with place.scope:
                yield place
        finally:
            self.leave(place)
        if place.scope.cancelled_caught:
            raise RefusedError(
                "displaced", f"of all networks {place.network} had most connections that said nothing"
            )

    def leave(self, place: Place) -> None:
        """The connection is no stranger any more; may be called again."""
        if place.held:
            place.held = False
            del self._places[place]
            self._by_network[place.network] -= 1
            if not self._by_network[place.network]:
                del self._by_network[place.network]

    def _admit(self, network: IPNetwork | None) -> Place:
        have, total = self._by_network[network], len(self._places)
        if have >= self._each_max:
            raise RefusedError(
                "too-many-from-network", f"{have} connections from {network} have yet to say who they are"
            )
        if have and self._chance() < (total - self._low) / (self._high - self._low):
            raise RefusedError("refused-early", f"{total} connections have yet to say who they are")
        if total >= self._high:
            self._displace()
        place = Place(network)
        self._places[place] = None
        self._by_network[network] += 1
        return place

    def _displace(self) -> None:
        """Takes the oldest place of the network that has most."""
        most = max(self._by_network.values())
        heaviest = [network for network, count in self._by_network.items() if count == most]
        network = heaviest[int(self._chance() * len(heaviest))]
        victim = next(place for place in self._places if place.network == network)
        self.leave(victim)
        victim.scope.cancel()
