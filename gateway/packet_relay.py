"""The gateway's end of packets inside a tunnel: a node's datagrams reach this gateway's device on loopback.

Made when the first of them comes, which is when the node's network lets no UDP pass. The device moves its
peer here by itself, and away again, as WireGuard follows who authenticates.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from raven.net.relay import FLOW, Relay
from raven.net.tunnel import Tunnel


class NodeRelay:
    """Of one tunnel. `make` gives the relay to the device that carries the node, None while none does."""

    __slots__ = ("_make", "_nursery", "_relay", "_tunnel")

    def __init__(self, tunnel: Tunnel, nursery: trio.Nursery, make: Callable[[], Relay | None]) -> None:
        self._tunnel = tunnel
        self._nursery = nursery
        self._make = make
        self._relay: Relay | None = None

    def received(self, flow: int, segment_size: int, data: bytes) -> None:
        """`Tunnel.on_datagrams`."""
        if flow != FLOW:
            return
        if self._relay is None:
            if (made := self._make()) is None:
                return
            self._relay = made
            self._nursery.start_soon(self._run, made)
        self._relay.to_device(segment_size, data)

    async def _run(self, relay: Relay) -> None:
        try:
            await relay.run(self._send)
        finally:
            relay.close()

    def _send(self, segment_size: int, data: memoryview) -> bool:
        return self._tunnel.send_datagrams(FLOW, segment_size=segment_size, data=data)
