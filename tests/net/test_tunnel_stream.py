"""What TunnelStream and IncomingStream have beyond trio's interface; the rest is in test_tunnel."""

import subprocess
import sys
from array import array

import pytest
import trio
import trio.testing

from raven.errors import LocalError
from raven.mux.connection import Limits
from raven.net.tunnel import IncomingStream, RefusalCode, StreamRefused
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
