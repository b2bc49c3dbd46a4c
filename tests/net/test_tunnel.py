"""The tunnel over memory streams: two real ends, no peer of our own making."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from raven.mux.connection import Limits
from raven.net.tunnel import IncomingStream, RefusalCode, StreamRefused, Tunnel, TunnelLost, TunnelStream

Handler = Callable[[IncomingStream], Awaitable[None]]


class Pair:
    """Two tunnels joined by a memory stream, and what their `run` came back with."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.transports = trio.testing.memory_stream_pair()
        self.left = Tunnel(self.transports[0], initiator=True, peer="right", limits=limits)
        self.right = Tunnel(self.transports[1], initiator=False, peer="left", limits=limits)
        self.ended: dict[str, TunnelLost | None] = {}

    async def run(self, tunnel: Tunnel, accept: Handler | None, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await tunnel.run(accept, task_status=task_status)
        except TunnelLost as lost:
            self.ended[tunnel.peer] = lost
        else:
            self.ended[tunnel.peer] = None


@asynccontextmanager
async def pair(accept: Handler | None = None, *, limits: Limits | None = None) -> AsyncIterator[Pair]:
    """Two running tunnels; `accept` handles what the left one opens."""
    both = Pair(limits)
    async with trio.open_nursery() as nursery:

        async def start(tunnel: Tunnel, accept: Handler | None) -> None:
            async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                await both.run(tunnel, accept, task_status=task_status)

            await nursery.start(run)

        await start(both.left, None)
        await start(both.right, accept)
        yield both
        nursery.cancel_scope.cancel()


async def opened(both: Pair, accepted: trio.MemoryReceiveChannel[TunnelStream]) -> tuple[TunnelStream, TunnelStream]:
    return await both.left.open_stream(b"hello"), await accepted.receive()


def hand_over() -> tuple[Handler, trio.MemoryReceiveChannel[TunnelStream]]:
    """A handler that accepts everything, and the channel its streams come out of."""
    send, receive = trio.open_memory_channel[TunnelStream](100)

    async def accept(incoming: IncomingStream) -> None:
        await send.send(await incoming.accept(b"welcome"))
        await trio.sleep_forever()

    return accept, receive


async def test_conformance() -> None:
    accept, accepted = hand_over()
    async with pair(accept) as both:

        async def maker() -> tuple[TunnelStream, TunnelStream]:
            return await opened(both, accepted)

        async def clogged() -> tuple[TunnelStream, TunnelStream]:
            left, right = await opened(both, accepted)
            for stream in (left, right):
                with trio.move_on_after(0.05):
                    await stream.send_all(bytes(1 << 20))
            return left, right

        await trio.testing.check_half_closeable_stream(maker, clogged)
        assert not both.ended
