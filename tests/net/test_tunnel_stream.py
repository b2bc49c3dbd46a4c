"""What TunnelStream and IncomingStream have beyond trio's interface; the rest is in test_tunnel_carrying."""

import subprocess
import sys
from array import array

import pytest
import trio
import trio.testing

from raven.errors import LocalError
from raven.mux.connection import Limits
from raven.net.tunnel import IncomingStream, RefusalCode, StreamRefused
from raven.net.tunnel_stream import HANDED_MAX
from tests.net.tunnels import Acceptor, tunnels


async def test_without_waiting() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both)
        assert right.receive_nowait(100) is None
        assert left.send_nowait(b"hello") == 5
        assert left.send_nowait(bytes(1 << 20)) == Limits().window_start - 5
        assert left.send_nowait(b"x") == 0
        await trio.testing.wait_all_tasks_blocked()
        assert right.receive_nowait(5) == b"hello"
        await left.send_eof()
        assert left.send_nowait(b"x") == 0
        while data := await right.receive_some():
            assert not any(data)
        assert right.receive_nowait(5) == b""
        right.close()
        assert right.receive_nowait(5) is None
        assert right.send_nowait(b"x") == 0


async def test_without_waiting_is_still_a_task_in_that_direction() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both, trio.open_nursery() as nursery:
        left, _ = await acceptor.pair(both)
        nursery.start_soon(left.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            left.receive_nowait(1)
        nursery.cancel_scope.cancel()


async def test_a_view_of_anything_is_its_bytes() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both)
        await left.send_all(memoryview(array("I", [1, 2, 3])))
        assert await right.receive_some() == array("I", [1, 2, 3]).tobytes()


async def test_one_answer_only() -> None:
    async def twice(incoming: IncomingStream) -> None:
        if incoming.header == b"accept":
            await incoming.accept()
        else:
            await incoming.refuse(RefusalCode.BUSY, "later")
        with pytest.raises(LocalError):
            await incoming.accept()
        with pytest.raises(LocalError):
            await incoming.refuse(RefusalCode.BUSY, "later")

    async with tunnels(twice) as both:
        stream = await both.left.open_stream(b"accept")
        assert await stream.receive_some() == b""
        with pytest.raises(StreamRefused):
            await both.left.open_stream(b"refuse")


def test_the_import_stays_light() -> None:
    """The idle agent pays for every import."""
    heavy = ["cryptography", "numpy", "msgspec", "structlog", "asyncio", "pyroute2"]
    code = f"import sys, raven.net.tunnel; print([name for name in {heavy} if name in sys.modules])"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout == "[]\n"


async def test_little_is_handed_on_before_the_reader_runs(mock_clock: trio.testing.MockClock) -> None:
    acceptor = Acceptor()
    handed: list[bytes] = []
    came: list[bytes | bytearray] = []  # by either way, in order

    def hand(data: bytes | bytearray) -> int:
        handed.append(bytes(data))
        came.append(data[:3])
        return min(len(data), 3)

    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both)

        async def read() -> None:
            while data := await right.receive_some(hand=hand):
                came.append(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await left.send_all(b"key")
            await trio.testing.wait_all_tasks_blocked()
            assert (handed, came) == ([b"key"], [b"key"])
            await left.send_all(b"strokes")  # the hand takes three bytes
            await trio.testing.wait_all_tasks_blocked()
            assert (handed[1:], came[1:]) == ([b"strokes"], [b"str", b"okes"])
            much = bytes(range(256)) * (
                8 * HANDED_MAX // 256
            )  # after this a flush takes more than HANDED_MAX
            await left.send_all(much)
            await trio.testing.wait_all_tasks_blocked()
            assert b"".join(came) == b"keystrokes" + much
            handed.clear()
            await left.send_all(bytes(HANDED_MAX + 1))
            await trio.testing.wait_all_tasks_blocked()
            assert (handed, came[-1]) == ([], bytes(HANDED_MAX + 1))
            await left.send_eof()  # ends `read`


async def test_what_a_hand_did_not_take_outlives_a_cancellation() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor) as both:
        left, right = await acceptor.pair(both)
        scope = trio.CancelScope()

        def hand(data: bytes | bytearray) -> int:
            scope.cancel()
            return 2

        async def read() -> None:
            with scope:
                await right.receive_some(hand=hand)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await left.send_all(b"words")
        assert scope.cancelled_caught
        assert await right.receive_some(2) == b"rd"
        assert right.receive_nowait(100) == b"s"


async def test_a_request_taken_back_cannot_be_accepted() -> None:
    answers: list[str] = []

    async def late(incoming: IncomingStream) -> None:
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked(0.01)
        try:
            incoming.accept_now()
        except trio.BrokenResourceError as error:
            answers.append(str(error))

    async with tunnels(late) as both:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both.left.open_stream, b"never mind")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert answers == ["the other end has taken its request back"]


async def test_what_is_written_alone_leaves_before_anybody_else_runs() -> None:
    acceptor = Acceptor()
    async with tunnels(acceptor, tls=True) as both:
        left, right = await acceptor.pair(both)
        await trio.testing.wait_all_tasks_blocked(0.01)
        before = both.left.bytes_out
        assert left.send_nowait(b"x") == 1
        assert both.left.bytes_out > before
        assert await right.receive_some() == b"x"
