"""The way of this node's datagrams to the hub: UDP to one of its addresses, or the tunnel to its gateway.

The tunnel is the last rung: it carries packets where the network lets no UDP pass, at the price of their
waiting in its TCP. `agent.network` says when a way is silent, and tells the device which endpoint counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from agent.hub_endpoint import HubEndpoint, NoEndpoint
from raven.net.relay import FLOW, MISSED_FLOW, Relay

if TYPE_CHECKING:
    from raven.net.tunnel import Tunnel

# Seconds in the tunnel between two attempts to leave it. Each sends what this node has to say into the void
# for CLIMB_TRIAL, should UDP still not pass and nothing come in meanwhile.
CLIMB_MIN: Final = 30.0
CLIMB_MAX: Final = 1800.0
CLIMB_TRIAL: Final = 1.5  # seconds for a handshake by UDP: less than until WireGuard repeats it, by any way


class HubPath:
    """The way that counts now, and the tunnels there are."""

    def __init__(self, missed: Callable[[], None]) -> None:
        """`missed` is called when the gateway tells that it hears nothing of our device."""
        self._missed = missed
        self.text = ""  # HOST:PORT of the hub, as the map has it
        self.gateway = ""  # whose hub that is
        self.dropped: Counter[str] = Counter()  # of what went or came through tunnels, by reason
        self._endpoint = HubEndpoint("")
        self._relay: Relay | None = None  # while packets go through the tunnel
        self._climbing = False
        self._tunnels: dict[str, Tunnel] = {}
        self._changed = trio.Event()  # another relay, or none
        self._climb_pause = CLIMB_MIN
        self._climb_at = 0.0  # trio.current_time()

    @property
    def current(self) -> str:
        """The endpoint for the device, numeric; "" while there is none."""
        relayed = self._relay is not None and not self._climbing
        return self._relay.endpoint if self._relay is not None and relayed else self.direct

    @property
    def direct(self) -> str:
        """The address for UDP that was tried last; "" before the first."""
        return self._endpoint.current

    @property
    def relayed(self) -> bool:
        """Whether packets go through the tunnel."""
        return self._relay is not None

    def reached(self, gateway: str, tunnel: Tunnel) -> None:
        """Call when there is a tunnel to a gateway."""
        self._tunnels[gateway] = tunnel
        tunnel.on_datagrams = partial(self._received, gateway)
        self.climb_soon()

    def lost(self, gateway: str) -> None:
        """Call when that tunnel has ended."""
        self._tunnels.pop(gateway, None)

    async def advance(self, text: str, device_port: int) -> None:
        """The next way to the hub at `text`: each of its addresses in turn, then the tunnel if there is one.

        `device_port` is our device's; 0 while that is not known. NoEndpoint when there is no way.
        """
        if text != self.text:
            self.text, self._endpoint = text, HubEndpoint(text)
        elif not self.relayed and self._endpoint.tried >= self._endpoint.count:
            self._endpoint.tried = 0
            if self.relay(device_port):
                return
        self.close()
        try:
            await self._endpoint.advance()
        except NoEndpoint:
            if not self.relay(device_port):
                raise

    def relay(self, device_port: int) -> bool:
        """From now on through the tunnel; False when there is none, or no device."""
        if not device_port or self.gateway not in self._tunnels:
            return False
        try:
            made = Relay(device_port, self.dropped)
        except OSError:
            return False
        self.close()
        self._relay = made
        self._climb_at = trio.current_time() + self._climb_pause
        self._tell()
        return True

    def climb_soon(self) -> None:
        """Call when the network may be another than the one that let no UDP pass."""
        self._climb_pause = CLIMB_MIN
        self._climb_at = min(self._climb_at, trio.current_time() + CLIMB_MIN)

    @property
    def climb_due(self) -> bool:
        """Whether it is time to see if UDP passes again."""
        return self.relayed and bool(self.direct) and trio.current_time() >= self._climb_at

    def climb(self) -> None:
        """For a trial by UDP. What comes through the tunnel meanwhile still reaches the device."""
        self._climbing = True

    def climbed(self, passes: bool) -> None:
        """Call at the trial's end: by UDP from now on, or through the tunnel for a longer while."""
        self._climbing = False
        if passes:
            self._climb_pause = CLIMB_MIN
            self.close()
        else:
            self._climb_pause = min(2 * self._climb_pause, CLIMB_MAX)
            self._climb_at = trio.current_time() + self._climb_pause

    async def run(self) -> None:
        """Carries what our device sends through the tunnel, while that is the way; until cancelled."""
        try:
            while True:
                changed = self._changed
                if self._relay is not None:
                    await self._relay.run(self._send)
                else:
                    await changed.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Gives the tunnel up."""
        if self._relay is not None:
            self._relay.close()
            self._relay = None
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _send(self, segment_size: int, data: memoryview) -> bool:
        tunnel = self._tunnels.get(self.gateway)
        return tunnel is not None and tunnel.send_datagrams(FLOW, segment_size=segment_size, data=data)

    def _received(self, gateway: str, flow: int, segment_size: int, data: bytes) -> None:
        if gateway != self.gateway:
            return
        if flow == MISSED_FLOW:
            self._missed()
        elif flow == FLOW and self._relay is not None:
            self._relay.to_device(segment_size, data)
