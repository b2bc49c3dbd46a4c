"""Fairness and windows on simulated paths: how long a keystroke takes, how full one stream gets a path.

In virtual time, so a busy machine changes no figure.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from raven.net.tunnel import IncomingStream, Priority
from tests.net.simulated_path import simulated_path
from tests.net.tunnels import Tunnels, tunnels

LOWAT = 64 * 1024  # bytes that a sender's kernel holds ahead of what it is given next


async def serve(incoming: IncomingStream) -> None:
    """Interactive streams are echoed; what bulk streams bring is read and thrown away."""
    async with await incoming.accept() as stream:
        async for data in stream:
            if incoming.priority is Priority.INTERACTIVE:
                await stream.send_all(data)


@asynccontextmanager
async def saturated(both: Tunnels, streams: int = 1) -> AsyncIterator[list[int]]:
    """So many copies that never stop; the bytes each has written."""
    copied = [0] * streams

    async def copy(number: int) -> None:
        stream = await both.left.open_stream(b"", priority=Priority.BULK)
        while True:
            await stream.send_all(bytes(64 * 1024))
            copied[number] += 64 * 1024

    async with trio.open_nursery() as nursery:
        for number in range(streams):
            nursery.start_soon(copy, number)
        yield copied
        nursery.cancel_scope.cancel()


async def keystrokes(both: Tunnels, count: int) -> list[float]:
    """Sorted seconds of one-byte round trips."""
    taken = []
    async with await both.left.open_stream(b"") as shell:
        for _ in range(count):
            began = trio.current_time()
            await shell.send_all(b"l")
            assert await shell.receive_some() == b"l"
            taken.append(trio.current_time() - began)
            await trio.sleep(0.005)
    return sorted(taken)


async def test_a_keystroke_beside_a_copy_on_a_path_of_20_megabits_and_50_ms(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """p99 within three round trips. The path's own queue is a bandwidth-delay product and 64 KiB."""
    path = simulated_path(rate=2.5e6, delay=0.025, held=125_000 + LOWAT)
    async with tunnels(serve, path=path) as both:
        idle = (await keystrokes(both, 20))[10]
        async with saturated(both):
            await trio.sleep(3)
            p99 = (await keystrokes(both, 300))[296]
    assert 0.050 <= idle < 0.055
    assert p99 < 0.150


async def test_a_keystroke_beside_a_copy_on_a_fast_path(autojump_clock: trio.testing.MockClock) -> None:
    """1 Gb/s and no delay: what waits is what the tunnel itself puts ahead of it."""
    path = simulated_path(rate=1.25e8, delay=0.0, held=LOWAT)
    async with tunnels(serve, path=path) as both, saturated(both):
        await trio.sleep(0.2)
        p99 = (await keystrokes(both, 100))[98]
    assert p99 < 0.010


async def test_one_stream_fills_200_megabits_at_200_ms(autojump_clock: trio.testing.MockClock) -> None:
    """5 MB are under way. After the window has grown, most of the path's rate arrives."""
    path = simulated_path(rate=25e6, delay=0.1, held=5_000_000 + LOWAT)
    async with tunnels(serve, path=path) as both, saturated(both):
        await trio.sleep(3)
        before, began = both.right.bytes_in, trio.current_time()
        await trio.sleep(2)
        rate = (both.right.bytes_in - before) / (trio.current_time() - began)
    assert rate > 0.95 * 25e6


async def test_equal_streams_get_equal_shares(autojump_clock: trio.testing.MockClock) -> None:
    path = simulated_path(rate=5e6, delay=0.005, held=50_000 + LOWAT)
    async with tunnels(serve, path=path) as both, saturated(both, streams=4) as copied:
        await trio.sleep(1.5)
        before = list(copied)
        await trio.sleep(4)
        shares = [now - then for now, then in zip(copied, before, strict=True)]
    assert sum(shares) > 0.9 * 4 * 5e6
    assert min(shares) > 0.9 * max(shares)
