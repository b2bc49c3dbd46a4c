import struct

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from raven.control.messages import JoinHello, JoinRefused, encode
from raven.errors import PeerError
from raven.net.join_channel import JOIN_MESSAGE_MAX, JoinChannel

HELLO = JoinHello(ca_pem="pem", cluster="lab", now=1.0)
WIRE = struct.pack("!I", len(encode(HELLO))) + encode(HELLO)


async def received(wire: bytes) -> str:
    """The reason of the error that `wire`, followed by the end of the stream, causes."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def feed() -> None:
            await far.send_all(wire)
            await far.send_eof()

        nursery.start_soon(feed)
        with pytest.raises(PeerError) as caught:
            await JoinChannel(near).receive()
    return caught.value.reason


async def test_messages_cross_in_both_directions() -> None:
    near, far = trio.testing.memory_stream_pair()
    refused = JoinRefused(reason="token-used", message="x" * 40_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(JoinChannel(near).send, HELLO)
        assert await JoinChannel(far).receive() == HELLO
    async with trio.open_nursery() as nursery:
        nursery.start_soon(JoinChannel(far).send, refused)
        assert await JoinChannel(near).receive() == refused


async def test_nothing_is_read_ahead_however_the_bytes_arrive() -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def feed() -> None:
            for byte in WIRE + WIRE + b"tail":
                await far.send_all(bytes([byte]))

        nursery.start_soon(feed)
        assert [await JoinChannel(near).receive() for _ in range(2)] == [HELLO, HELLO]
        rest = b""
        while len(rest) < 4:
            rest += await near.receive_some(10)
        assert rest == b"tail"


async def test_every_truncation_is_a_hang_up() -> None:
    for cut in range(len(WIRE)):
        assert await received(WIRE[:cut]) == "closed"


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (struct.pack("!I", JOIN_MESSAGE_MAX + 1), "oversized"),
        (b"GET / HTTP/1.1\r\n\r\n", "oversized"),
        (b"\xff" * 100, "oversized"),
        (struct.pack("!I", 0), "bad-join"),
        (struct.pack("!I", 4) + b"null", "bad-join"),
        (struct.pack("!I", 11) + b'{"type":"x"', "bad-join"),
    ],
)
async def test_what_is_no_message_ends_the_join_with_its_reason(wire: bytes, reason: str) -> None:
    assert await received(wire) == reason


@given(data=st.binary(max_size=200))
def test_garbage_is_one_typed_error(data: bytes) -> None:
    assert trio.run(received, data) in {"closed", "oversized", "bad-join"}


async def test_a_peer_that_neither_sends_nor_takes_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(PeerError, match="did not send a whole message in 10 s") as caught:
        await JoinChannel(near).receive()
    assert caught.value.reason == "timeout"

    # A byte now and then does not buy time: the deadline is of the whole message.
    async with trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in WIRE:
                await trio.sleep(1)
                await far.send_all(bytes([byte]))

        nursery.start_soon(drip)
        began = trio.current_time()
        with pytest.raises(PeerError, match="whole message"):
            await JoinChannel(near).receive()
        assert trio.current_time() - began == 10
        nursery.cancel_scope.cancel()

    stuck, _ = trio.testing.lockstep_stream_pair()
    with pytest.raises(PeerError, match="did not take a whole message in 10 s"):
        await JoinChannel(stuck).send(HELLO)


async def test_a_broken_connection_is_a_hang_up() -> None:
    near, far = trio.testing.lockstep_stream_pair()
    await far.aclose()
    with pytest.raises(PeerError) as caught:
        await JoinChannel(near).send(HELLO)
    assert caught.value.reason == "closed"
