"""Streams that live through trouble: real TLS over a path that cuts, swallows, corrupts, and comes back."""

import hashlib
import random

import pytest
import trio

from raven.net.tunnel import IncomingStream, Tunnel, TunnelLost
from tests.net.resumable import Ends, ends, until
from tests.net.tunnels import echo, take

BLOCK = 64 * 1024


async def exchange(both: Ends, seed: int, blocks: int) -> None:
    """Sends blocks, and gets the same bytes back, exactly once and in order."""
    rng = random.Random(seed)
    sent, got = hashlib.sha256(), hashlib.sha256()
    stream = await both.near.open_stream(b"")

    async def send() -> None:
        for _ in range(blocks):
            data = rng.randbytes(rng.randrange(1, 2 * BLOCK))
            sent.update(data)
            await stream.send_all(data)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async for data in stream:
            got.update(data)
    assert got.digest() == sent.digest()
    await stream.aclose()


@pytest.mark.parametrize("seed", range(4))
async def test_checksums_under_random_cuts(seed: int) -> None:
    """Copies both ways and keystrokes, on a path of 80 Mb/s that is cut every few moments."""
    rng = random.Random(seed)
    async with ends(echo, delay=0.002, rate=10e6) as both, trio.open_nursery() as nursery:

        async def trouble() -> None:
            while True:
                await trio.sleep(rng.uniform(0.01, 0.3))
                if rng.random() < 0.3:
                    both.path.corrupt = True  # TLS notices, and the transport is gone
                else:
                    both.path.cut()

        nursery.start_soon(trouble)
        with trio.fail_after(60):
            async with trio.open_nursery() as copies:
                for number in range(3):
                    copies.start_soon(exchange, both, seed * 10 + number, 40)
        nursery.cancel_scope.cancel()
        assert both.near.resumed >= 3
        assert both.near.streams_open == 0


async def test_control_messages_and_requests_neither_lost_nor_repeated() -> None:
    """What is asked while there is no transport is answered when there is one again."""
    async with ends(echo) as both:
        both.redial = False
        both.path.cut()
        await until(lambda: both.near.suspended_since is not None)
        for number in range(20):
            await both.near.send_control(b"%d" % number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange, both, 1, 3)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert both.far.streams_open == 0
            both.redial = True
            both.near.news.set()
            for number in range(20):
                assert await both.far.control.receive() == b"%d" % number
        assert both.far.control.statistics().current_buffer_used == 0


@pytest.mark.parametrize("dead", [(True, True), (True, False), (False, True)])
async def test_a_half_open_path_is_noticed_in_3_seconds_while_a_stream_is_open(
    dead: tuple[bool, bool],
) -> None:
    """Whichever direction swallows: both ends give the transport up, and the stream goes on over another."""
    async with ends(echo) as both:
        stream = await both.near.open_stream(b"")
        await stream.send_all(b"before")
        assert await take(stream, 6) == b"before"
        both.path.dead = list(dead)
        await stream.send_all(b"during")
        noticed = dict.fromkeys(("near", "far"), 0.0)
        both.redial = False

        async def watch(name: str) -> None:
            tunnel = both.near if name == "near" else both.far
            noticed[name] = await until(lambda: tunnel.suspended_since is not None)

        async with trio.open_nursery() as nursery:
            for name in noticed:
                nursery.start_soon(watch, name)
        assert max(noticed.values()) < 3.0 + 0.5  # half a second for a busy machine
        both.path.black_hole(False)
        both.redial = True
        both.near.news.set()
        assert await take(stream, 6) == b"during"


async def test_the_next_transport_is_up_before_the_last_one_goes() -> None:
    async with ends(echo) as both, trio.open_nursery() as nursery:
        for seed in range(3):
            nursery.start_soon(exchange, both, seed, 40)
        both.redial = False
        for number in range(1, 6):
            newer = await both.dial()  # its TLS handshake is done, and the streams know nothing of it
            assert await both.near.carry(newer)
            assert both.near.resumed == number
        assert both.path.connections == 6
        assert not both.ended


async def test_who_does_not_come_back_ends_clearly() -> None:
    async with ends(echo, grace=0.3) as both:
        both.redial = False
        stream = await both.near.open_stream(b"")
        both.path.cut()
        with pytest.raises(trio.BrokenResourceError, match=r"did not come back within 0\.3 s"):
            await stream.receive_some()
        await until(lambda: len(both.ended) == 2)
        for lost in both.ended.values():
            assert lost is not None
            assert lost.reason == "transport"
        with pytest.raises(TunnelLost):
            await both.near.open_stream(b"")


async def test_a_far_end_that_forgot_begins_anew_on_the_same_transport() -> None:
    async with ends(echo) as both:
        stream = await both.near.open_stream(b"")
        both.redial = False
        before, both.far = both.far, both.far
        del both.far  # as after a restart of its process
        both.path.cut()
        await until(lambda: both.near.suspended_since is not None)
        assert not await both.near.carry(await both.dial())
        with pytest.raises(trio.BrokenResourceError, match="does not know this connection any more"):
            await stream.receive_some()
        await until(lambda: both.near in both.ended)
        lost = both.ended[both.near]
        assert lost is not None
        assert lost.reason == "not-resumed"
        assert both.near.unresumed is not None
        anew = Tunnel(both.near.unresumed, initiator=True, peer="far")
        async with trio.open_nursery() as nursery:
            await nursery.start(anew.run, echo)
            assert await anew.ping() < 5
            stream = await anew.open_stream(b"")
            await stream.send_all(b"as before")
            assert await take(stream, 9) == b"as before"
            nursery.cancel_scope.cancel()
        before.abort("test", "its other end is gone")


async def test_an_idle_tunnel_goes_on_as_well() -> None:
    async with ends(echo) as both:
        for _ in range(3):
            both.path.cut()
            resumed = both.near.resumed
            await until(lambda: both.near.resumed > resumed and both.near.suspended_since is None)  # noqa: B023
        assert await both.near.ping() < 5


async def test_a_thousand_streams_go_on() -> None:
    async with ends(echo) as both:
        streams = [await both.near.open_stream(b"") for _ in range(1000)]
        for number, stream in enumerate(streams):
            await stream.send_all(b"%04d" % number)
        both.path.cut()
        for number, stream in enumerate(streams):
            assert await take(stream, 4) == b"%04d" % number
        assert both.near.resumed == 1


async def test_a_stalled_reader_and_a_suspended_sender_hold_a_bounded_amount() -> None:
    async def stall(incoming: IncomingStream) -> None:
        await incoming.accept()
        await trio.sleep_forever()

    async with ends(stall) as both:
        both.redial = False
        stream = await both.near.open_stream(b"")
        both.path.cut()
        await until(lambda: both.near.suspended_since is not None)
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await stream.send_all(bytes(BLOCK))
                sent += BLOCK

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
        assert sent <= 256 * 1024  # the window that the reader gave
