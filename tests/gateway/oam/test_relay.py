"""Exchanges byte by byte: bodies and trailers untouched, upgrades, early answers, ends that come too soon."""

import contextlib

import pytest
import trio
import trio.testing

from gateway.oam import relay
from gateway.oam.relay import HALF_CLOSED_GRACE
from tests.gateway.oam.site import read_all, read_head, read_until, site, target

CHUNKS = b'5;sig="x y"\r\nhello\r\n0\r\nX-Checksum: 0123\r\nX-Empty:\r\n\r\n'


def post(port: int, *headers: str) -> bytes:
    return "\r\n".join([f"POST http://edge1:{port}/up HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def test_chunks_extensions_and_trailers_pass_untouched_both_ways() -> None:
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        seen.append(await read_until(stream, b"X-Empty:\r\n\r\n"))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n")
        for byte in CHUNKS:
            await stream.send_all(bytes([byte]))

    async with site() as s, target(serve) as port, await s.dial() as stream:
        for _ in range(2):  # the connection stays
            await stream.send_all(
                post(port, "Transfer-Encoding: chunked", "TE: trailers", "Connection: TE") + CHUNKS
            )
            assert await read_until(stream, CHUNKS) == (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n" + CHUNKS
            )
        head, _, body = seen[1].partition(b"\r\n\r\n")
        assert body == CHUNKS
        assert (
            head
            == (
                f"POST /up HTTP/1.1\r\nHost: edge1:{port}\r\nTE: trailers\r\nConnection: close, TE\r\n"
                "Transfer-Encoding: chunked"
            ).encode()
        )
        lines = await s.lines(2)
    assert (lines[1].bytes_to_target, lines[1].bytes_from_target) == (len(CHUNKS), len(CHUNKS))


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        head = await read_until(stream, b"\r\n\r\n")
        path = head.split()[1]
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)

    async with site() as s, target(serve) as port:
        asked = b"".join(
            f"GET http://edge1:{port}/{n} HTTP/1.1\r\nHost: x\r\n{close}\r\n".encode()
            for n, close in ((1, ""), (2, ""), (3, "Connection: close\r\n"))
        )
        answer = await s.ask(asked)
    assert [part.rpartition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")] == [
        b"",
        b"/1",
        b"/2",
        b"/3",
    ]


async def test_an_upgraded_connection_belongs_to_its_ends() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        head = await read_until(stream, b"\r\n\r\n")
        assert b"Upgrade: echo/2\r\nConnection: Upgrade\r\n" in head
        await stream.send_all(b"HTTP/1.1 101 Now\r\nUpgrade: echo/2\r\nConnection: Upgrade\r\n\r\nready")
        async for data in stream:
            await stream.send_all(data)
        await stream.send_all(b" bye")

    async with site() as s, target(serve) as port, await s.dial() as stream:
        asked = (
            f"GET http://edge1:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo/2\r\n\r\n"
        )
        await stream.send_all(asked.encode() + b"hasty ")
        assert await read_until(stream, b"hasty ") == (
            b"HTTP/1.1 101 Now\r\nUpgrade: echo/2\r\nConnection: Upgrade\r\n\r\nreadyhasty "
        )
        await stream.send_all(b"\x00GET / HTTP/9\n\n")
        await stream.send_eof()
        assert await read_all(stream) == b"\x00GET / HTTP/9\n\n bye"
        (line,) = await s.lines(1)
    assert (line.status, line.bytes_to_target, line.bytes_from_target) == (101, 21, 30)


async def test_continue_is_waited_for_and_passed_on() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await read_until(stream, b"!")
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with site() as s, target(serve) as port, await s.dial() as stream:
        await stream.send_all(post(port, "Content-Length: 6", "Expect: 100-continue"))
        assert await read_until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"hello!")
        assert (await read_until(stream, b"hello!")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_answer_that_overtakes_its_request() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 413 Too much\r\nContent-Length: 3\r\n\r\nno!")

    async with site() as s, target(serve) as port, await s.dial() as stream:
        await stream.send_all(post(port, "Content-Length: 100000000") + bytes(300_000))
        assert await read_all(stream) == (
            b"HTTP/1.1 413 Too much\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!"
        )


async def test_an_answer_that_ends_with_its_connection() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")

    async with site() as s, target(serve) as port:
        answer = await s.ask(f"GET http://edge1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end"


async def test_an_answer_that_is_cut_does_not_look_whole() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with site() as s, target(serve) as port, await s.dial() as stream:
        await stream.send_all(f"GET http://edge1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = b""
        try:
            received = await read_all(stream)
        except trio.BrokenResourceError:
            received = b"reset"
        (line,) = await s.lines(1)
        assert received == b"reset"
        assert (line.verdict, line.status, line.detail) == ("allowed", 200, "cut-answer")
        assert s.requests.broken == {"cut-answer": 1}


async def test_a_target_that_says_nothing_or_not_http() -> None:
    for said, reason in ((b"", b"no-answer"), (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"bad-answer")):

        async def serve(stream: trio.SocketStream, said: bytes = said) -> None:
            await read_until(stream, b"\r\n\r\n")
            await stream.send_all(said)

        async with site() as s, target(serve) as port:
            answer = await s.ask(
                f"GET http://edge1:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"Raven-Error: " + reason in answer


async def test_an_asker_that_hangs_up_ends_its_request_at_the_target() -> None:
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        with contextlib.suppress(trio.BrokenResourceError):
            await read_all(stream)
        ended.set()

    async with site() as s, target(serve) as port:
        # in the middle of its body: at once
        async with await s.dial() as stream:
            await stream.send_all(post(port, "Content-Length: 10") + b"half")
            await stream.send_eof()
            with trio.fail_after(5):
                await ended.wait()
        (line,) = await s.lines(1)
        assert line.detail == "asker-left"


async def test_an_asker_that_said_eof_has_limited_patience(autojump_clock: trio.testing.MockClock) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await trio.sleep(slow)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with site() as s, target(serve) as port:
        for slow in (HALF_CLOSED_GRACE / 2, HALF_CLOSED_GRACE * 2):
            async with await s.dial() as stream:
                await stream.send_all(f"GET http://edge1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await stream.send_eof()
                try:
                    received = await read_all(stream)
                except trio.BrokenResourceError:
                    received = b"reset"
            assert received.endswith(b"ok") is (slow < HALF_CLOSED_GRACE)
        assert [line.detail for line in s.audit] == ["", "asker-left"]


async def test_a_flood_of_pipelined_requests_is_not_hoarded() -> None:
    release = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await release.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with site() as s, target(serve) as port, await s.dial() as stream:
        await stream.send_all(f"GET http://edge1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await stream.send_all(b"x" * 65536)
                sent += 65536
        release.set()
        assert sent < 30 << 20  # the kernel's buffers, not ours


async def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await read_until(stream, b"abc")
            await stream.receive_some()
        ended.set()

    monkeypatch.setattr(relay, "BODY_IDLE", 0.1)
    async with site() as s, target(serve) as port:
        answer = await s.ask(post(port, "Content-Length: 100") + b"abc")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"Raven-Error: body-timeout" in answer
        (line,) = await s.lines(1)
        assert (line.verdict, line.bytes_to_target) == ("body-timeout", 3)
        with trio.fail_after(5):
            await ended.wait()
