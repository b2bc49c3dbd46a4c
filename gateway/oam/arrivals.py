"""Connections on their way to a target, so that a drain can wait for the requests that have come already."""

from __future__ import annotations

import trio


class Arrivals:
    """Of one entry. A connection is arriving from its begin until its first request is at its target."""

    def __init__(self) -> None:
        self._arriving: dict[trio.abc.AsyncResource, trio.Event] = {}

    def came(self, stream: trio.abc.AsyncResource) -> None:
        self._arriving[stream] = trio.Event()

    def arrived(self, stream: trio.abc.AsyncResource) -> None:
        """Call when a request of it is at its target, and when it is gone; more often costs nothing."""
        if (event := self._arriving.pop(stream, None)) is not None:
            event.set()

    async def settle(self) -> None:
        """Returns when all that have come so far have arrived, or ended. The caller bounds it."""
        for arrived in list(self._arriving.values()):
            await arrived.wait()
