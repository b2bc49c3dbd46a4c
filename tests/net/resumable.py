"""A tunnel over TLS on a path with faults, whose ends find each other again as agent and gateway do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from raven.errors import RavenError
from raven.mux.connection import Limits
from raven.net.stream_table import Accept
from raven.net.tls_stream import client_handshake, server_handshake
from raven.net.transport_driver import hear
from raven.net.tunnel import Carriage, Tunnel, TunnelLost
from tests.net.faults import FaultyPath, faulty_path
from tests.net.loopback import contexts


class Ends:
    """`near` dialled; `far` is the tunnel of whoever dialled last without being known."""

    def __init__(self, accept: Accept, limits: Limits, nursery: trio.Nursery) -> None:
        self.path = FaultyPath()
        self.near: Tunnel
        self.far: Tunnel
        self.ended: dict[Tunnel, TunnelLost | None] = {}
        self.redial = True
        self._accept = accept
        self._limits = limits
        self._nursery = nursery
        self._come = trio.Event()

    async def serve(self, transport: trio.SocketStream) -> None:
        """The far end, for each connection."""
        with suppress(RavenError, trio.BrokenResourceError):
            stream = await server_handshake(transport, contexts()[1])
            try:
                carriage = Carriage(stream, *await hear(stream))
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            assert carriage.theirs is not None
            if hasattr(self, "far") and self.far.fits(carriage.theirs):
                await self.far.carry(carriage)
                return
            self.far = Tunnel(carriage, initiator=False, peer="near", limits=self._limits)
            self._come.set()
            await self._run(self.far)

    async def start(self) -> None:
        self.near = Tunnel(await self.dial(), initiator=True, peer="far", limits=self._limits)
        self._nursery.start_soon(self._run, self.near)
        self._nursery.start_soon(self._keep_carried)
        await self._come.wait()
        await self.near.ping()  # from now on both know each other

    async def dial(self) -> Carriage:
        transport = await trio.open_tcp_stream("127.0.0.1", self.path.port)
        return Carriage(await client_handshake(transport, contexts()[0], timeout=2))

    async def _keep_carried(self) -> None:
        while True:
            while self.near.suspended_since is None or not self.redial:
                await self.near.news.wait()
            with suppress(RavenError, OSError):
                await self.near.carry(await self.dial())
            await trio.sleep(0.01)

    async def _run(self, tunnel: Tunnel) -> None:
        self.ended.pop(tunnel, None)
        try:
            await tunnel.run(self._accept)
        except TunnelLost as lost:
            self.ended[tunnel] = lost
        else:
            self.ended[tunnel] = None


@asynccontextmanager
async def ends(
    accept: Accept, *, delay: float = 0.0, rate: float = 0.0, grace: float = 60.0
) -> AsyncIterator[Ends]:
    """Both ends, up; `delay` and `rate` are the path's."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with faulty_path(port, delay=delay, rate=rate) as path, trio.open_nursery() as nursery:
        both = Ends(accept, Limits(grace=grace), nursery)
        both.path = path
        nursery.start_soon(trio.serve_listeners, both.serve, listeners)
        await both.start()
        yield both
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], *, seconds: float = 30.0) -> float:
    """Returns once it holds, with the seconds that took; looks every 5 ms, for what no event tells."""
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)
    return trio.current_time() - began
