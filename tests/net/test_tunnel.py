"""The tunnel between two real ends: how streams open and end, and what passes beside them."""

import pytest
import trio
import trio.testing

from raven.mux import frames
from raven.mux.connection import Limits
from raven.net.tunnel import IncomingStream, RefusalCode, StreamRefused, Tunnel, TunnelLost
from tests.net.tunnels import Acceptor, Tunnels, echo, take, tunnels

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
