"""A gateway, or something on the way, that cuts each connection as soon as it is up: pauses grow."""

from typing import cast

import trio
import trio.testing

from agent.carrying import BRIEF_MAX, LASTING, Carrying, Reached
from raven.net.tls import Peer
from raven.net.tunnel import Carriage, Tunnel
from raven.pki.identity import Identity, Role


class BriefTunnel:
    """As much of a tunnel as its carrier sees; each connection lives `life` seconds."""

    unresumed = None

    def __init__(self, life: float, nursery: trio.Nursery) -> None:
        self.life = life
        self.suspended_since: float | None = 0.0
        self.news = trio.Event()
        self._nursery = nursery

    async def carry(self, carriage: object) -> bool:
        await trio.lowlevel.checkpoint()
        self.suspended_since = None
        self._nursery.start_soon(self._break)
        return True

    async def _break(self) -> None:
        await trio.sleep(self.life)
        self.suspended_since = trio.current_time()
        news, self.news = self.news, trio.Event()
        news.set()


async def dials_within(seconds: float, *, life: float) -> int:
    dialled = 0

    async def reach() -> Reached:
        nonlocal dialled
        await trio.lowlevel.checkpoint()
        dialled += 1
        peer = Peer(Identity("lab", Role.GATEWAY, "gw"), "01", 0.0, 1.0)
        return Reached(cast(Carriage, None), peer, 0, "127.0.0.1", ("127.0.0.1", 9))

    carrying = Carrying(reach=reach, backoff=lambda attempts: min(30.0, 0.5 * 2.0**attempts))
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            tunnel = BriefTunnel(life, nursery)
            await carrying.run(cast(Tunnel, tunnel), await reach(), None)
    return dialled


async def test_connections_that_break_at_once_are_dialled_ever_more_rarely(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert BRIEF_MAX < await dials_within(60, life=0.001) < 20


async def test_connections_that_lasted_are_replaced_at_once(autojump_clock: trio.testing.MockClock) -> None:
    assert await dials_within(20 * LASTING, life=LASTING) >= 20
