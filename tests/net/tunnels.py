"""Two running tunnels joined by memory streams or by TLS on loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from raven.mux.connection import Limits
from raven.net.tunnel import IncomingStream, Tunnel, TunnelLost, TunnelStream
from tests.net.loopback import tls_pair

Handler = Callable[[IncomingStream], Awaitable[None]]


class Tunnels:
    """`left` dialled. `ended` has what each `run` came back with, None for a clean end."""

    def __init__(
        self, left: trio.abc.Stream, right: trio.abc.Stream, limits: Limits | None, nursery: trio.Nursery
    ) -> None:
        self.left = Tunnel(left, initiator=True, peer="right", limits=limits)
        self.right = Tunnel(right, initiator=False, peer="left", limits=limits)
        self.transports = (left, right)
        self.nursery = nursery
        self.ended: dict[Tunnel, TunnelLost | None] = {}

    async def start(self, tunnel: Tunnel, accept: Handler | None) -> None:
        await self.nursery.start(self._run, tunnel, accept)

    async def _run(
        self,
        tunnel: Tunnel,
        accept: Handler | None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await tunnel.run(accept, task_status=task_status)
        except TunnelLost as lost:
            self.ended[tunnel] = lost
        else:
            self.ended[tunnel] = None


@asynccontextmanager
async def tunnels(
    accept: Handler | None = None,
    *,
    limits: Limits | None = None,
    tls: bool = False,
    path: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> AsyncIterator[Tunnels]:
    """Two running tunnels, over `path` where given; `accept` handles what the left one opens."""
    left, right = path or (await tls_pair() if tls else trio.testing.memory_stream_pair())
    async with trio.open_nursery() as nursery:
        both = Tunnels(left, right, limits, nursery)
        await both.start(both.left, None)
        await both.start(both.right, accept)
        yield both
        nursery.cancel_scope.cancel()


class Acceptor:
    """A handler that accepts everything and hands the streams to the test."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[TunnelStream](100)

    async def __call__(self, incoming: IncomingStream) -> None:
        await self._send.send(await incoming.accept(b"welcome"))
        await trio.sleep_forever()

    async def pair(self, both: Tunnels, header: bytes = b"") -> tuple[TunnelStream, TunnelStream]:
        """Both ends of a new stream, the opener's first."""
        return await both.left.open_stream(header), await self._receive.receive()


async def clog(stream: trio.abc.SendStream) -> int:
    """Sends until no more fits, and leaves the stream usable; the bytes that fitted."""
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await stream.send_all(bytes(1000))
            sent += 1000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    return sent


async def echo(incoming: IncomingStream) -> None:
    async with await incoming.accept() as stream:
        async for data in stream:
            await stream.send_all(data)


async def take(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        data = await stream.receive_some(size - len(got))
        assert data
        got += data
    return bytes(got)
