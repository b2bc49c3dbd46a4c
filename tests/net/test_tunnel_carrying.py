"""What a tunnel carries: many streams at once, some that stall, and keystrokes beside a copy."""

import pytest
import trio
import trio.testing

from raven.mux.connection import Limits
from raven.net.tunnel import IncomingStream, Priority, TunnelStream
from tests.net.resumable import until
from tests.net.tunnels import Acceptor, Tunnels, clog, echo, take, tunnels


@pytest.mark.parametrize("tls", [False, True])
async def test_many_streams_carry_at_once(tls: bool) -> None:
    async def exchange(both: Tunnels, number: int) -> None:
        data = bytes([number]) * (50_000 * number)
        priority = Priority.BULK if number % 2 else Priority.INTERACTIVE
        stream = await both.left.open_stream(b"", priority=priority)

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await take(stream, len(data)) == data
            assert await stream.receive_some() == b""

    async with tunnels(echo, tls=tls) as both:
        async with trio.open_nursery() as nursery:
            for number in range(1, 21):
                nursery.start_soon(exchange, both, number)
        assert both.left.streams_open == both.right.streams_open == 0
        # The last CREDIT frames may be under way.
        await until(lambda: both.left.bytes_out == both.right.bytes_in)
        assert both.right.bytes_in > 10_000_000
        assert not both.ended


async def test_conformance() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:

        async def maker() -> tuple[TunnelStream, TunnelStream]:
            return await acceptor.pair(both)

        async def clogged() -> tuple[TunnelStream, TunnelStream]:
            left, right = await acceptor.pair(both)
            await clog(left)
            await clog(right)
            return left, right

        await trio.testing.check_half_closeable_stream(maker, clogged)
        assert not both.ended


async def test_a_cancelled_send_leaves_the_stream_usable() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both)
        sent = await clog(left)
        got = len(await take(right, sent))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.send_all, b"end")
            while not (data := await right.receive_some()).endswith(b"end"):
                got += len(data)
        assert got + len(data) - 3 <= sent + 1000  # an unknown part of the cancelled 1000 bytes


async def test_one_stalled_reader_holds_up_nobody_else() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        stalled, _ = await acceptor.pair(both)
        assert await clog(stalled) <= Limits().window_start
        left, right = await acceptor.pair(both)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.send_all, bytes(3_000_000))
            assert await take(right, 3_000_000)


async def test_a_transport_that_takes_nothing_bounds_what_is_buffered() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor, tls=True) as both:
        streams = [await acceptor.pair(both) for _ in range(3)]
        for left, _ in streams:
            assert await clog(left) <= 2 * Limits().window_start


async def test_small_writes_leave_together() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both)
        await trio.testing.wait_all_tasks_blocked()
        writes = []
        transport = both.transports[0]
        assert isinstance(transport, trio.StapledStream)
        assert isinstance(transport.send_stream, trio.testing.MemorySendStream)

        pump = transport.send_stream.send_all_hook
        assert pump

        async def note() -> None:
            writes.append(both.left.bytes_out)
            await pump()

        transport.send_stream.send_all_hook = note
        for _ in range(10):
            await left.send_all(b"x")
        assert await take(right, 10) == b"x" * 10
        assert len(writes) <= 6  # two or more of the ten in each


async def test_a_keystroke_passes_a_copy_over_tls() -> None:
    async def serve(incoming: IncomingStream) -> None:
        async with await incoming.accept() as stream:
            async for data in stream:
                if incoming.priority is Priority.INTERACTIVE:
                    await stream.send_all(data)

    async with tunnels(serve, tls=True) as both, trio.open_nursery() as nursery:
        copy = await both.left.open_stream(b"", priority=Priority.BULK)
        shell = await both.left.open_stream(b"")
        copied = 0

        async def send() -> None:
            nonlocal copied
            while True:
                await copy.send_all(bytes(100_000))
                copied += 100_000

        nursery.start_soon(send)
        behind = []
        for _ in range(20):
            before = copied
            await shell.send_all(b"l")
            assert await take(shell, 1) == b"l"
            behind.append(copied - before)
        # Not behind all that the copy has queued: behind a few flushes and what the kernel holds.
        assert sorted(behind)[10] < 4_000_000
        nursery.cancel_scope.cancel()
