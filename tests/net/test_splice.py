"""Splices between TCP on loopback and tunnel streams, with a client and a server at the far ends.

client ── TCP ── splice ── tunnel ── splice ── TCP ── server
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from raven.net import tcp
from raven.net.splice import SpliceResult, splice
from raven.net.tunnel import IncomingStream
from tests.net.loopback import tcp_streams
from tests.net.tunnels import clog, tunnels


@dataclass
class Path:
    """The far ends of two splices in a row, and how each splice ended."""

    client: trio.SocketStream
    entry: trio.SocketStream  # the near splice's end of the client's connection
    server: trio.SocketStream
    near: list[SpliceResult]
    far: list[SpliceResult]
    nearer: trio.CancelScope

    async def ended(self) -> tuple[SpliceResult, SpliceResult]:
        with trio.fail_after(5):
            while not (self.near and self.far):
                await trio.testing.wait_all_tasks_blocked()
        return self.near[0], self.far[0]


@asynccontextmanager
async def path() -> AsyncIterator[Path]:
    client, entry = tcp_streams()
    exit_, server = tcp_streams()
    ends = Path(client, entry, server, [], [], trio.CancelScope())

    async def serve(incoming: IncomingStream) -> None:
        ends.far.append(await splice(await incoming.accept(), exit_))

    async with client, server, tunnels(serve, tls=True) as both:
        stream = await both.left.open_stream(b"")

        async def near() -> None:
            with ends.nearer:
                ends.near.append(await splice(entry, stream))

        both.nursery.start_soon(near)
        yield ends
        assert not both.ended


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    got = bytearray()
    async for data in stream:
        got += data
    return bytes(got)


async def test_bytes_and_half_closes_both_ways() -> None:
    question, answer = bytes(range(256)) * 4000, b"answer" * 100_000
    async with path() as ends, trio.open_nursery() as nursery:

        async def ask() -> None:
            await ends.client.send_all(question)
            await ends.client.send_eof()

        nursery.start_soon(ask)
        assert await read_all(ends.server) == question  # the end of the question came through
        nursery.start_soon(ends.server.send_all, answer)
        got = bytearray()
        while len(got) < len(answer):
            got += await ends.client.receive_some()
        await ends.server.send_eof()
        assert await ends.client.receive_some() == b""
        assert got == answer
        near, far = await ends.ended()
        assert near == far == SpliceResult(len(question), len(answer))


async def test_an_abort_at_the_server_reaches_the_client() -> None:
    async with path() as ends:
        await ends.server.send_all(b"half an answ")
        assert await ends.client.receive_some() == b"half an answ"
        ends.server.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER: on, 0 s
        await ends.server.aclose()
        with pytest.raises(trio.BrokenResourceError):  # not b"", which would look like a whole answer
            await ends.client.receive_some()
        near, far = await ends.ended()
        assert near.bytes_b_to_a == far.bytes_b_to_a == 12
        assert near.aborted.startswith("the other end broke the stream off")
        assert far.aborted


async def test_an_abort_at_the_client_reaches_the_server() -> None:
    async with path() as ends:
        await ends.client.send_all(b"half a quest")
        assert await ends.server.receive_some() == b"half a quest"
        ends.client.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")
        await ends.client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await ends.server.receive_some()
        await ends.ended()


async def test_a_server_that_answers_and_hangs_up_is_heard_to_the_end() -> None:
    """The client still talks; TCP then says RST, but what the server said before must arrive."""
    answer = b"413 too much" * 10_000
    async with path() as ends, trio.open_nursery() as nursery:
        await ends.client.send_all(b"a long question ")
        assert await ends.server.receive_some() == b"a long question "
        nursery.start_soon(ends.server.send_all, answer)
        got = bytearray()
        while len(got) < len(answer):
            got += await ends.client.receive_some()
        await ends.server.aclose()
        assert await ends.client.receive_some() == b""
        assert got == answer
        # The end of the answer is an end of reading too, sooner or later.
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while True:
                await ends.client.send_all(b"more" * 1000)
                await trio.lowlevel.checkpoint()
        await ends.ended()


async def test_a_client_that_talks_on_hears_the_answer_to_its_end() -> None:
    """It reads late, when everything has ended, and what it said meanwhile lies unread at the near splice."""
    answer = bytes(range(256)) * 800
    async with path() as ends:
        ends.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        ends.entry.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await ends.client.send_all(b"a question")
        assert await ends.server.receive_some() == b"a question"
        await ends.server.send_all(answer)
        while not ends.far:  # the far splice ends when it cannot pass on what the client says
            await ends.server.aclose()
            await ends.client.send_all(b"and more")
            await trio.sleep(0.01)
        for _ in range(5):  # the first ends that direction of the near splice, the others wait unread
            await ends.client.send_all(b"and more")
            await trio.sleep(0.01)
        assert await read_all(ends.client) == answer
        near, far = await ends.ended()
        assert near.aborted
        assert far.aborted


async def test_nobody_waits_for_a_client_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_PATIENCE", 0.3)
    near, far = tcp_streams()
    async with near, far:
        await clog(near)
        with trio.fail_after(10):
            await tcp.finish(near.socket)


async def test_a_server_that_does_not_read_stops_the_client() -> None:
    async with path() as ends:
        sent = await clog(ends.client)
        assert sent < 40_000_000
        got = 0
        while got < sent:
            got += len(await ends.server.receive_some(1 << 20))


async def test_cancelled_splices_abort_both_sides() -> None:
    async with path() as ends:
        await ends.client.send_all(b"x")
        assert await ends.server.receive_some() == b"x"
        ends.nearer.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await ends.client.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await ends.server.receive_some()


async def test_a_stream_that_was_closed_before() -> None:
    client, entry = tcp_streams()
    other, peer = tcp_streams()
    async with client, peer:
        await entry.aclose()
        result = await splice(entry, other)
        assert result.aborted
        with pytest.raises(trio.BrokenResourceError):
            await peer.receive_some()
