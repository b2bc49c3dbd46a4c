"""How a tunnel ends: drained, aborted, cancelled, by its transport, by a peer's silence or fault."""

import socket
import ssl

import pytest
import trio
import trio.testing

from raven.mux import frames
from raven.net.tunnel import CONTROL_WAITING, IncomingStream, RefusalCode, StreamRefused, Tunnel, TunnelLost
from tests.net.loopback import tls_pair
from tests.net.tunnels import Acceptor, echo, take, tunnels


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
