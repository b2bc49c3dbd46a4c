"""Brings a tunnel its next connection: when the last one broke, or when another way leads there now.

`agent.uplink` keeps the tunnel and knows how to reach its gateway; here it is decided when to try again.
While a connection lives it is given up only once the next one is up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import trio

from raven.errors import PeerError, RavenError
from raven.net.path_changes import PathChanges, source_address
from raven.net.tls import Peer
from raven.net.tls_stream import TLSStream
from raven.net.tunnel import Carriage, Tunnel

# Seconds a connection lives to count as one, and how many in a row may be briefer: whoever cuts each as soon
# as it is up must not make us dial without a pause.
LASTING: Final = 10.0
BRIEF_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Reached:
    """A gateway at the other end of a connection."""

    carriage: Carriage
    peer: Peer
    renewals: int  # that there had been before the handshake
    local: str  # address of this machine that the connection uses
    remote: tuple[str, int]  # the gateway's, or the proxy's

    @property
    def is_best(self) -> bool:
        """Whether a new connection would leave by the same way, or by none."""
        return source_address(*self.remote) in (None, self.local)


@dataclass(eq=False, kw_only=True)
class Carrying:
    """What brings the connections of one tunnel after its first."""

    reach: Callable[[], Awaitable[Reached]]  # raises RavenError
    backoff: Callable[[int], float]  # seconds to wait after so many failures in a row
    broke: Callable[[], None] = lambda: None  # called when the streams begin to wait
    returned: Callable[[], None] = lambda: None  # called when they go on
    problem: Callable[[str], None] = lambda text: None  # called with why an attempt failed

    async def run(self, tunnel: Tunnel, reached: Reached, changes: PathChanges | None) -> Reached | None:
        """Until cancelled, or until the gateway begins anew: the connection on which it does."""
        attempts = 0
        brief, since = (
            0,
            trio.current_time(),
        )  # connections in a row that did not last; when the last one came
        while True:
            if tunnel.suspended_since is None and reached.is_best:
                attempts = 0
                await _trouble(tunnel, changes)
                continue
            if tunnel.suspended_since is not None:
                self.broke()
            if brief >= BRIEF_MAX:
                with trio.move_on_after(self.backoff(brief - BRIEF_MAX)):
                    await _trouble(tunnel, changes)
            try:
                newer = await self.reach()
            except RavenError as error:
                self.problem(str(error))
            else:
                if await tunnel.carry(newer.carriage):
                    now = trio.current_time()
                    brief = brief + 1 if now - since < LASTING else 0
                    reached, since = newer, now
                    self.returned()
                    continue
                if tunnel.unresumed is not None:
                    return replace(newer, carriage=tunnel.unresumed)
            wait = self.backoff(attempts)
            attempts += 1
            with trio.move_on_after(wait):
                await _trouble(tunnel, changes)


def addresses(stream: TLSStream) -> tuple[str, tuple[str, int]]:
    """Ours and theirs. PeerError when the connection is gone already."""
    try:
        remote, port = stream.socket.getpeername()[:2]
        return stream.socket.getsockname()[0], (remote, port)
    except OSError as error:
        raise PeerError("connect", f"the connection broke at once: {error.strerror}") from error


async def _trouble(tunnel: Tunnel, changes: PathChanges | None) -> None:
    """Until the tunnel loses its transport or gets another, or something changes on this machine."""

    async def until(event: Callable[[], Awaitable[None]]) -> None:
        await event()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(until, tunnel.news.wait)
        if changes is not None:
            nursery.start_soon(until, changes.wait)
