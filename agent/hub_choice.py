"""Which gateway's hub carries this node's packets: decides, and waits for nothing.

It is the gateway whose name is first of those that can be reached, so that all nodes choose alike. One whose
transport breaks keeps its hub as long as the hub answers: the two lanes fail apart. `agent.network` tells
what happens, probes while `seeking`, and follows each map that comes back.
"""

from __future__ import annotations

from typing import Final

from raven.control.messages import NetworkMap

SEEK_AFTER: Final = 2  # unanswered probes, after which a hub is gone whose gateway is not reached


class HubChoice:
    """The newest map of each gateway, and whose counts."""

    def __init__(self) -> None:
        self.gateway = ""  # whose map counts; "" for the kept one
        self._maps: dict[str, NetworkMap] = {}  # of each gateway there is a tunnel to
        self._away: set[str] = set()  # of these, whose tunnel waits for its next transport
        self._silent = 0  # probes in a row, since the gateway is not reached

    def told(self, gateway: str, network: NetworkMap) -> NetworkMap | None:
        """Call with every map of a gateway; returns it when it is the one to follow."""
        self._maps[gateway] = network
        return self._choose(gateway) if not self.gateway or gateway <= self.gateway else None

    def lost(self, gateway: str) -> None:
        """Call when a gateway's tunnel has ended."""
        self._maps.pop(gateway, None)
        self._away.discard(gateway)

    def broke(self, gateway: str) -> None:
        """Call when a tunnel has lost its transport, once or more often; its map counts again on return."""
        if gateway in self._maps:
            self._away.add(gateway)

    def returned(self, gateway: str) -> NetworkMap | None:
        """Call when a tunnel goes on over another transport; the gateway does not tell its map again."""
        self._away.discard(gateway)
        return self._choose(gateway) if gateway in self._maps and gateway <= self.gateway else None

    @property
    def seeking(self) -> bool:
        """Whether another gateway could take the place of this one, should its hub not answer."""
        reached = self._maps.keys() - self._away
        return bool(reached) and self.gateway not in reached

    def answered(self) -> None:
        """Call when the hub answers a probe."""
        self._silent = 0

    def unanswered(self) -> NetworkMap | None:
        """Call when the hub leaves a probe unanswered; the next gateway's map once it is gone."""
        self._silent += 1
        # A tunnel may have come while the hub was asked.
        if self._silent < SEEK_AFTER or not self.seeking:
            return None
        return self._choose(min(self._maps.keys() - self._away))

    def _choose(self, gateway: str) -> NetworkMap:
        self.gateway, self._silent = gateway, 0
        return self._maps[gateway]
