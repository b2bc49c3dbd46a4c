"""The tunnel between two real ends: over memory streams, and over TLS where the transport matters."""

import socket
import ssl

import pytest
import trio
import trio.testing

from raven.mux import frames
from raven.mux.connection import Limits
from raven.net.tunnel import (
    CONTROL_WAITING,
    IncomingStream,
    Priority,
    RefusalCode,
    StreamRefused,
    Tunnel,
    TunnelLost,
    TunnelStream,
)
from tests.net.loopback import tls_pair
from tests.net.resumable import until
from tests.net.tunnels import Acceptor, Tunnels, clog, tunnels


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


# Opening ------------------------------------------------------------------------------------------


async def test_headers_both_ways() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both, b"node:10250")
        assert (left.header, right.header) == (b"welcome", b"node:10250")
        assert both.left.streams_open == both.right.streams_open == 1


async def test_each_end_can_list_its_streams_and_what_they_carry() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both, b"node:10250")
        assert both.left.streams() == [left]
        assert both.right.streams() == [right]
        assert left.opening == right.opening == b"node:10250"
        await left.send_all(b"question")
        assert await take(right, 3) == b"que"
        sent, received = left.usage(), right.usage()
        assert sent is not None
        assert received is not None
        assert (sent.sent, sent.received, sent.queue) == (8, 0, 0)
        assert (received.sent, received.received, received.queue) == (0, 8, 5)
        assert sent.window == received.window == Limits().window_start
        left.close()
        right.close()
        assert both.left.streams() == both.right.streams() == []
        await trio.testing.wait_all_tasks_blocked()
        assert left.usage() is right.usage() is None


async def test_both_ends_may_open() -> None:
    async with trio.open_nursery() as nursery:
        both = Tunnels(*trio.testing.memory_stream_pair(), None, nursery)
        await both.start(both.left, echo)
        await both.start(both.right, echo)
        for tunnel in (both.left, both.right):
            async with await tunnel.open_stream(b"") as stream:
                await stream.send_all(b"hello")
                assert await take(stream, 5) == b"hello"
        nursery.cancel_scope.cancel()


async def test_refused_with_code_and_sentence() -> None:
    async def refuse(incoming: IncomingStream) -> None:
        await incoming.refuse(RefusalCode.FORBIDDEN, f"{incoming.header.decode()} is not on the list")

    async with tunnels(refuse) as both:
        with pytest.raises(StreamRefused) as raised:
            await both.left.open_stream(b"node:22")
        assert raised.value.code is RefusalCode.FORBIDDEN
        assert raised.value.reason == "forbidden"
        assert str(raised.value) == "node:22 is not on the list"
        assert both.left.streams_open == both.right.streams_open == 0


async def test_no_answer_is_a_refusal() -> None:
    async def forget(incoming: IncomingStream) -> None:
        await trio.lowlevel.checkpoint()

    async with tunnels(forget) as both:
        with pytest.raises(StreamRefused) as raised:
            await both.left.open_stream(b"")
        assert raised.value.code is RefusalCode.INTERNAL
        with pytest.raises(StreamRefused) as raised:
            await both.right.open_stream(b"")  # left has no handler at all
        assert raised.value.code is RefusalCode.FORBIDDEN


async def test_giving_up_cancels_the_handler() -> None:
    events = []

    async def slow(incoming: IncomingStream) -> None:
        events.append("started")
        try:
            await trio.sleep_forever()
        finally:
            events.append("cancelled")

    async with tunnels(slow) as both:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both.left.open_stream, b"")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert events == ["started", "cancelled"]
        assert both.left.streams_open == both.right.streams_open == 0
        assert not both.ended


async def test_too_many_streams_are_refused_at_home() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor, limits=Limits(streams=2)) as both:
        for _ in range(2):
            await acceptor.pair(both)
        with pytest.raises(StreamRefused) as raised:
            await both.left.open_stream(b"")
        assert raised.value.code is RefusalCode.BUSY


# Carrying -----------------------------------------------------------------------------------------


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


# Ending a stream ----------------------------------------------------------------------------------


async def test_a_reset_breaks_the_other_end_after_what_had_arrived() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both)
        await left.send_all(b"arrived")
        await trio.testing.wait_all_tasks_blocked()
        left.reset(65, "crash")
        await trio.testing.wait_all_tasks_blocked()
        assert await right.receive_some() == b"arrived"
        with pytest.raises(trio.BrokenResourceError, match="broke the stream off: crash"):
            await right.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await right.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await left.receive_some()


async def test_a_cancelled_close_does_not_look_like_an_end() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both)
        await left.send_all(b"half of it")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await left.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert await right.receive_some() == b"half of it"
        with pytest.raises(trio.BrokenResourceError):
            await right.receive_some()


async def test_a_handler_that_returns_ends_its_stream_and_one_that_breaks_breaks_it() -> None:
    async def serve(incoming: IncomingStream) -> None:
        stream = await incoming.accept()
        if incoming.header == b"break":
            raise trio.BrokenResourceError("the target went away")
        await stream.send_all(b"all of it")

    async with tunnels(serve) as both:
        stream = await both.left.open_stream(b"")
        assert await take(stream, 9) == b"all of it"
        assert await stream.receive_some() == b""
        broken = await both.left.open_stream(b"break")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await broken.receive_some()
        assert not both.ended


async def test_a_fault_in_a_handler_comes_out() -> None:
    async def fault(incoming: IncomingStream) -> None:
        await incoming.accept()
        raise KeyError("a mistake of ours")

    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(TunnelLost):
                await tunnel.open_stream(b"")

        async def run() -> None:
            with pytest.raises(TunnelLost):
                await tunnel.run(None)

        tunnel = Tunnel(left, initiator=True, peer="right")
        nursery.start_soon(ask)
        nursery.start_soon(run)
        with pytest.raises(ExceptionGroup) as raised:
            await Tunnel(right, initiator=False, peer="left").run(fault)
    assert raised.group_contains(KeyError)


# Control, ping ------------------------------------------------------------------------------------


async def test_control_messages_in_order() -> None:
    messages = [b"hello", b"", bytes(frames.CONTROL_MAX)] + [bytes(100_000)] * 60
    async with tunnels() as both, trio.open_nursery() as nursery:

        async def send() -> None:
            for message in messages:
                await both.left.send_control(message)

        nursery.start_soon(send)
        for message in messages:
            assert await both.right.control.receive() == message


async def test_control_that_nobody_reads_ends_the_tunnel() -> None:
    async with tunnels() as both:
        for _ in range(CONTROL_WAITING + 1):
            await both.left.send_control(b"x")
        with trio.fail_after(5):
            while len(both.ended) < 2:
                await trio.testing.wait_all_tasks_blocked()
        right, left = both.ended[both.right], both.ended[both.left]
        assert right
        assert right.reason == "control-stuck"
        assert left
        assert left.reason == "ended-by-peer"
        assert "nobody reads them" in str(left)


async def test_ping_and_what_is_known_about_the_peer() -> None:
    async with tunnels(tls=True) as both:
        assert 0 < await both.left.ping() < 5
        assert both.left.rtt
        assert trio.current_time() - both.left.last_heard < 5


async def test_datagrams() -> None:
    got = []
    async with tunnels() as both:
        assert both.left.send_datagrams(1, segment_size=10, data=bytes(25))
        await trio.testing.wait_all_tasks_blocked()
        assert both.right.counters["datagrams-unread"] == 1
        both.right.on_datagrams = lambda *run: got.append(run)
        assert both.left.send_datagrams(2, segment_size=10, data=bytes(25))
        await trio.testing.wait_all_tasks_blocked()
        assert got == [(2, 10, bytes(25))]


# Ending the tunnel --------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
async def test_drain_lets_streams_finish(tls: bool) -> None:
    async with tunnels(echo, tls=tls) as both:
        stream = await both.left.open_stream(b"")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both.right.drain, "restart")
            while not both.left.going_away:
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(StreamRefused) as raised:
                await both.left.open_stream(b"")
            assert raised.value.code is RefusalCode.GOING_AWAY
            await stream.send_all(b"still here")
            assert await take(stream, 10) == b"still here"
            await stream.aclose()
        with trio.fail_after(5):
            while len(both.ended) < 2:
                await trio.testing.wait_all_tasks_blocked()
        assert [*both.ended.values()] == [None, None]
        with pytest.raises(TunnelLost):
            await both.left.open_stream(b"")


async def test_abort_breaks_everything_at_both_ends() -> None:
    async def serve(incoming: IncomingStream) -> None:
        if not incoming.header:
            await (await incoming.accept()).send_all(b"arrived")
        await trio.sleep_forever()

    async with tunnels(serve) as both:
        left = await both.left.open_stream(b"")
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def expect_lost() -> None:
                with pytest.raises(TunnelLost, match="newer connection"):
                    await both.left.open_stream(b"no answer")

            async def expect_broken() -> None:
                assert await left.receive_some() == b"arrived"
                with pytest.raises(trio.BrokenResourceError, match="newer connection") as raised:
                    await left.receive_some()
                assert isinstance(raised.value.__cause__, TunnelLost)

            nursery.start_soon(expect_lost)
            nursery.start_soon(expect_broken)
            await trio.testing.wait_all_tasks_blocked()
            both.left.abort("replaced", "a newer connection of this node took over")
        while len(both.ended) < 2:
            await trio.testing.wait_all_tasks_blocked()
        ours, theirs = both.ended[both.left], both.ended[both.right]
        assert ours
        assert theirs
        assert (ours.reason, theirs.reason) == ("replaced", "ended-by-peer")
        for call in (both.left.ping, both.left.open_stream, both.left.send_control):
            with pytest.raises(TunnelLost):
                await call(*[b""] * (call != both.left.ping))
        with pytest.raises(trio.EndOfChannel):
            await both.right.control.receive()


async def test_a_transport_that_breaks() -> None:
    async with tunnels(Acceptor()) as both:
        await trio.aclose_forcefully(both.transports[0])
        with trio.fail_after(5):
            while len(both.ended) < 2:
                await trio.testing.wait_all_tasks_blocked()
        for lost in both.ended.values():
            assert lost
            assert lost.reason in ("transport", "eof")


async def test_what_tls_has_against_us_is_the_cause() -> None:
    """A certificate is refused after our handshake is done (RFC 8446, section 4.4): the tunnel hears it."""
    ours, theirs = await tls_pair()
    tunnel = Tunnel(ours, initiator=True, peer="gateway")
    alert = theirs.socket.detach()
    with socket.socket(fileno=alert) as raw:
        raw.sendall(b"\x15\x03\x03\x00\x02\x02\x74")  # certificate_required, in the clear: OpenSSL objects
        with pytest.raises(TunnelLost) as raised:
            await tunnel.run(None)
    assert raised.value.reason == "transport"
    assert isinstance(raised.value.__cause__, trio.BrokenResourceError)
    assert isinstance(raised.value.__cause__.__cause__, ssl.SSLError)


async def test_a_peer_that_breaks_the_rules_is_told() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    tunnel = Tunnel(ours, initiator=False, peer="stranger")
    resume = frames.encode_resume(bytes(16), transport=0, received=0)
    await theirs.send_all(resume + frames.encode_ping(1, received=0) + b"\xff\xff\xff\x03\0\0\0\1")
    with pytest.raises(TunnelLost) as raised:
        await tunnel.run(None)
    assert raised.value.reason == "frame-too-long"
    assert "stranger" in str(raised.value)
    said = bytearray()
    async for data in theirs:
        said += data
    assert b"frame-too-long: DATA frame of 16777215 bytes on stream 1" in said


@pytest.mark.parametrize("active", [False, True])
async def test_a_silent_peer(active: bool, autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.memory_stream_pair()  # takes everything and says nothing
    tunnel = Tunnel(ours, initiator=True, peer="ghost")
    async with trio.open_nursery() as nursery:
        if active:

            async def wait() -> None:
                with pytest.raises(TunnelLost):
                    await tunnel.open_stream(b"")

            nursery.start_soon(wait)
        begin = trio.current_time()
        with pytest.raises(TunnelLost) as raised:
            await tunnel.run(None)
        assert raised.value.reason == "silent"
        # The first ping, for the round trip, goes out at once and is not answered either.
        assert trio.current_time() - begin < (3.0 if active else 31.0)


async def test_two_ends_keep_each_other_company(autojump_clock: trio.testing.MockClock) -> None:
    async with tunnels() as both:
        await trio.sleep(3600)
        assert not both.ended
        assert both.left.bytes_out + both.right.bytes_out < 24 * 3600 / 15


async def test_cancelling_run_closes_the_transport() -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    tunnel = Tunnel(ours, initiator=True, peer="right")
    async with trio.open_nursery() as nursery:
        await nursery.start(tunnel.run, None)
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")
    with pytest.raises(TunnelLost):
        await tunnel.ping()


async def test_last_words_come_through_tls() -> None:
    ours, theirs = await tls_pair()
    left = Tunnel(ours, initiator=True, peer="right")
    right = Tunnel(theirs, initiator=False, peer="left")
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(TunnelLost, match="this node was removed") as raised:
                await left.run(None)
            assert raised.value.reason == "ended-by-peer"

        nursery.start_soon(run)
        right.abort("revoked", "this node was removed")
        with pytest.raises(TunnelLost):
            await right.run(None)
