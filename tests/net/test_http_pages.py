"""A daemon's own pages over memory streams, in virtual time."""

import trio
import trio.testing

from raven.net.http_pages import HEAD_TIMEOUT, IDLE_TIMEOUT, Page, serve_pages
from raven.oam.refusal import Refusal

GET = b"GET /metrics?a=1 HTTP/1.1\r\nHost: x\r\n\r\n"


def _metrics(query: str) -> Page:
    if query == "bad":
        raise Refusal("bad-request", "not this query")
    if query == "bug":
        raise ZeroDivisionError
    return Page(f"query {query}\n".encode())


PAGES = {"/metrics": _metrics, "/big": lambda query: Page(bytes(200_000), "application/octet-stream")}


async def talk(*pieces: bytes, pause: float = 0.0, eof: bool = True) -> tuple[bytes, float]:
    """What the server answers to `pieces` until it closes, and how long that takes."""
    client, server = trio.testing.memory_stream_pair()
    answer = bytearray()

    async def ask() -> None:
        try:
            for piece in pieces:
                await client.send_all(piece)
                await trio.sleep(pause)
            if eof:
                await client.send_eof()
        except trio.BrokenResourceError:
            pass  # the server has had enough

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_pages, server, PAGES)
        nursery.start_soon(ask)
        async for data in client:
            answer += data
        took = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return bytes(answer), took


async def test_a_page() -> None:
    answer, _ = await talk(GET)
    assert answer == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
        b"Content-Length: 10\r\nConnection: keep-alive\r\n\r\nquery a=1\n"
    )


async def test_several_requests_in_any_pieces() -> None:
    answer, _ = await talk(*(bytes([byte]) for byte in GET + GET), GET[:9], GET[9:] + GET)
    assert answer.count(b"query a=1\n") == 4


async def test_head_and_close() -> None:
    answer, _ = await talk(b"HEAD /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET, eof=False)
    assert answer.endswith(b"Content-Length: 200000\r\nConnection: close\r\n\r\n")


async def test_what_else_is_asked(autojump_clock: trio.testing.MockClock) -> None:
    for request, status in (
        (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na", b"405 Method Not Allowed"),
        (b"GET /metrics?bad HTTP/1.1\r\nHost: x\r\n\r\n", b"400 Bad Request"),
        (b"GET http://edge1/ HTTP/1.1\r\nHost: x\r\n\r\n", b"404 Not Found"),
        (b"GET /metrics HTTP/1.1\nHost: x\n\n", b"400 Bad Request"),
        (b"GET /" + b"a" * 70000, b"431 Request Header Fields Too Large"),
    ):
        answer, _ = await talk(request)
        assert answer.startswith(b"HTTP/1.1 " + status), request[:40]
        assert b"\r\nRaven-Error: " in answer
        assert (b"\r\nAllow: GET, HEAD\r\n" in answer) is (b" 405 " in answer)


async def test_a_page_that_fails_ends_its_connection_only() -> None:
    answer, _ = await talk(b"GET /metrics?bug HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer == b""


async def test_a_client_that_trickles_its_head(autojump_clock: trio.testing.MockClock) -> None:
    answer, took = await talk(*(bytes([byte]) for byte in GET[:30]), pause=1.0, eof=False)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert took == HEAD_TIMEOUT


async def test_a_client_that_says_nothing(autojump_clock: trio.testing.MockClock) -> None:
    answer, took = await talk(eof=False)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert took == HEAD_TIMEOUT


async def test_a_kept_connection_may_be_idle_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    answer, took = await talk(GET, eof=False)
    assert answer.endswith(b"query a=1\n")  # and nothing more: the idle end is silent
    assert took == IDLE_TIMEOUT


async def test_a_second_head_is_timed_from_its_first_byte(autojump_clock: trio.testing.MockClock) -> None:
    answer, took = await talk(GET, b"", GET[:5], pause=30.0, eof=False)
    assert b"HTTP/1.1 408 " in answer
    assert took == 60.0 + HEAD_TIMEOUT


async def test_a_client_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.lockstep_stream_pair()
    await _send(client, server)


async def _send(client: trio.abc.HalfCloseableStream, server: trio.abc.HalfCloseableStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        began = trio.current_time()
        await serve_pages(server, PAGES)
        assert trio.current_time() - began == 30.0
