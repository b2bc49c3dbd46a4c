"""Being told to come back later: who is told when, and what an agent makes of it."""

import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from raven.net.busy import WAIT_MAX, Busy, Pace, heed_untrusted
from raven.net.tls import join_context
from raven.net.tls_stream import HandshakeFailed, client_handshake


def seconds(line: bytes) -> int:
    with pytest.raises(Busy) as caught:
        heed_untrusted(line)
    return caught.value.seconds


def test_those_who_are_turned_away_come_back_one_after_the_other() -> None:
    pace = Pace(50.0)
    told = [seconds(pace.line(100.0)) for _ in range(1000)]
    assert told == sorted(told)
    assert 1 <= told[0] <= 2
    assert 20 <= told[-1] <= 22
    assert max(told.count(second) for second in set(told)) <= 51
    # A minute later nobody is left to wait for.
    assert seconds(pace.line(160.0)) <= 2


def test_nobody_is_sent_away_for_longer_than_a_minute() -> None:
    pace = Pace(1.0)
    assert max(seconds(pace.line(0.0)) for _ in range(500)) == WAIT_MAX
    assert seconds(b"RAVEN BUSY 99\n") == WAIT_MAX


def test_a_gateway_that_shuts_down_asks_in_the_same_pace() -> None:
    pace = Pace(50.0)
    told = [pace.seconds(100.0) for _ in range(1000)]
    assert (told == sorted(told), min(told) >= 1, max(told)) == (True, True, 21)


@pytest.mark.parametrize(
    "start",
    [b"", b"\x16\x03\x03\x00\x7a\x02", b"RAVEN", b"RAVEN BUSY 7", b"RAVEN BUSY -1\n", b"RAVEN BUSY 100\n"],
)
def test_anything_else_is_left_to_tls(start: bytes) -> None:
    heed_untrusted(start)


def test_a_flood_does_not_send_those_after_it_back_at_one_moment() -> None:
    pace = Pace(50.0)
    for _ in range(100_000):
        pace.line(0.0)
    told = Counter(seconds(pace.line(1.0)) for _ in range(1000))
    assert max(told.values()) <= 51


@pytest.mark.parametrize("hasty", [True, False])
async def test_the_line_is_heard_before_tls_and_across_a_reset(hasty: bool) -> None:
    """`hasty` closes before the ClientHello has come, the other with it unread: TCP resets then."""

    async def refuse(stream: trio.SocketStream) -> None:
        if not hasty:
            await trio.lowlevel.wait_readable(stream.socket)
        await stream.send_all(b"RAVEN BUSY 7\n")
        await trio.aclose_forcefully(stream)

    with pytest.raises(Busy) as caught:
        await _shake(refuse, heed_untrusted)
    assert caught.value.seconds == 7


async def test_who_does_not_look_finds_no_tls() -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await trio.lowlevel.wait_readable(stream.socket)
        await stream.send_all(b"RAVEN BUSY 7\n")
        await trio.aclose_forcefully(stream)

    with pytest.raises(HandshakeFailed):
        await _shake(refuse, None)


async def _shake(
    serve: Callable[[trio.SocketStream], Awaitable[None]], look: Callable[[bytes], None] | None
) -> None:
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(partial(trio.serve_listeners, serve, [listener]))
        transport = await trio.open_tcp_stream(*listener.socket.getsockname())
        try:
            await client_handshake(transport, join_context(), look=look)
        except (Busy, HandshakeFailed, ssl.SSLError) as error:
            failure = error
        nursery.cancel_scope.cancel()
    assert failure is not None
    raise failure
