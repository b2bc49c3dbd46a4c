"""Hostile O&M clients, by raw sockets, against the gateway as a process.

Whatever is sent, three things hold: nothing of it reaches a target unless it is one whole request, the
connection ends within its deadline, and an honest client is served meanwhile.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from raven.net.http_pages import HEAD_TIMEOUT
from raven.oam.heads import HEAD_MAX
from tests.daemons import Daemon, Loopback, loopback, until
from tests.gateway.oam.assembly import NODE, ask, connected
from tests.gateway.oam.site import read_all, read_until, target


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


class Heard:
    """A target that answers each request and remembers what arrived."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def __call__(self, stream: trio.SocketStream) -> None:
        head = await read_until(stream, b"\r\n\r\n")
        self.heads.append(head)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


@asynccontextmanager
async def heard(net: Loopback, *options: object) -> AsyncIterator[tuple[Daemon, Heard, int]]:
    """A gateway, a node and a target; gives the gateway, what the target heard, and its port."""
    target_heard = Heard()
    async with target(target_heard) as port, connected(net, *options) as gateway:
        yield gateway, target_heard, port


async def dial(net: Loopback) -> trio.SocketStream:
    host, _, port = net.oam.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def said(net: Loopback, data: bytes) -> bytes:
    """All that the gateway answers to `data` until it closes; b"" for a reset."""
    async with await dial(net) as stream:
        received = b""
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        with trio.fail_after(30), suppress(trio.BrokenResourceError):
            while more := await stream.receive_some():
                received += more
    return received


HEAD = b"POST http://%s:%%d/a HTTP/1.1\r\nHost: x\r\n" % NODE.encode()
HIDDEN = b"GET http://%s:%%d/hidden HTTP/1.1\r\nHost: x\r\n\r\n" % NODE.encode()

SMUGGLED = {
    "both framings": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both framings, the other way": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n",
    "two equal lengths": b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 0\r\n\r\n",
    "a signed length": b"Content-Length: +0\r\n\r\n",
    "a length in hexadecimal": b"Content-Length: 0x0\r\n\r\n",
    "blank before the colon": b"Content-Length : 4\r\n\r\n",
    "a folded line": b"X: y\r\n Content-Length: 4\r\n\r\n",
    "a bare LF": b"X: y\nContent-Length: 4\r\n\r\n",
    "a bare CR": b"X: y\rContent-Length: 4\r\n\r\n",
    "a bare LF at the end": b"X: y\n\n",
    "another coding": b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "a coding with a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a NUL": b"X: a\x00b\r\n\r\n",
}


async def test_nothing_is_smuggled(net: Loopback) -> None:
    async with heard(net) as (gateway, target_heard, port):
        for name, lines in SMUGGLED.items():
            back = await said(net, (HEAD % port) + lines + (HIDDEN % port))
            status = back.split(b" ")[1] if back else b""
            assert status in (b"400", b"501"), (name, back)
            assert target_heard.heads == [], name
        # A chunked body that lies about its end breaks the request, and hides none.
        body = b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"
        back = await said(net, (HEAD % port) + body + (HIDDEN % port))
        assert b"hidden" not in b"".join(target_heard.heads)
        assert await ask(net, port)
        assert "Traceback" not in gateway.log.read_text()


async def test_no_header_is_injected(net: Loopback) -> None:
    """By way of the URL, the query, Raven-Node and the headers: a line that was not sent does not arrive."""
    async with heard(net) as (_, target_heard, port):
        urls = [
            f"http://{NODE}:{port}/a%0d%0aEvil:%20yes",
            f"http://{NODE}:{port}/?nodeName={NODE}%0d%0aEvil:%20yes",
            f"http://{NODE}:{port}/?nodeName={NODE}&x=%0d%0aEvil:yes",
            f"http://evil%0d%0aEvil:yes.via.{NODE}:{port}/",
            f"http://user:pass@{NODE}:{port}/",
        ]
        for url in urls:
            await said(net, f"GET {url} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        for line in (b"Raven-Node: shop-1 Evil: yes", b"Raven-Node: shop-1\tEvil"):
            await said(net, b"GET http://10.0.0.1:%d/ HTTP/1.0\r\nHost: x\r\n%s\r\n\r\n" % (port, line))
        hop = b"Connection: X-Kept, Content-Length\r\nX-Kept: 1\r\nProxy-Authorization: "
        await said(net, b"GET http://shop-1:%d/ HTTP/1.0\r\nHost: x\r\n%sa\r\n\r\n" % (port, hop))
        for head in target_heard.heads:
            names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:-2]]
            assert b"evil" not in names
            assert not [name for name in names if name.startswith(b"proxy-") or name == b"raven-node"]
            assert b"x-kept" not in names


async def test_oversized_heads_end_at_their_limit(net: Loopback) -> None:
    async with heard(net) as (gateway, target_heard, port):
        before = gateway.resident()
        many = b"".join(b"X-%d: y\r\n" % number for number in range(HEAD_MAX // 8))
        for head in (
            b"GET /" + b"a" * (2 * HEAD_MAX) + b" HTTP/1.1\r\n\r\n",
            (HEAD % port) + b"X: " + b"a" * (2 * HEAD_MAX) + b"\r\n\r\n",
            (HEAD % port) + many + b"\r\n",
        ):
            back = await said(net, head)
            assert back == b"" or back.startswith(b"HTTP/1.1 431 ")
        # Without an end, from many at once.
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(said, net, b"GET / HTTP/1.1\r\nX: " + b"a" * (8 * HEAD_MAX))
        assert target_heard.heads == []
        assert gateway.resident() - before < 40 << 20
        assert b" 200 " in await ask(net, port)


async def test_a_head_a_byte_at_a_time_ends_by_its_deadline(net: Loopback) -> None:
    async with heard(net) as (_, target_heard, port):
        async with await dial(net) as stream:
            began = time.monotonic()

            async def drip() -> None:
                with suppress(trio.BrokenResourceError):
                    for byte in (HEAD % port) + b"X: " + b"a" * 1000:
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(0.1)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(drip)
                assert b" 200 " in await ask(net, port)  # meanwhile
                back = await read_all(stream)
                nursery.cancel_scope.cancel()
        assert back.startswith(b"HTTP/1.1 408 ")
        assert HEAD_TIMEOUT - 1 < time.monotonic() - began < HEAD_TIMEOUT + 5
        assert len(target_heard.heads) == 1


async def ask_gently(net: Loopback, port: int) -> bytes:
    """What `ask` gives, b"" for a reset."""
    with suppress(trio.BrokenResourceError):
        return await ask(net, port)
    return b""


async def test_a_crowd_of_slow_heads_keeps_nobody_out(net: Loopback) -> None:
    """More connections without a head than one network has places for: the honest one still gets in."""
    async with heard(net, "--oam-each-max", 400) as (gateway, _, port):
        crowd = [await dial(net) for _ in range(500)]
        try:
            for stream in crowd:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b"GET /healthz HTT")
            # All of the crowd and the honest client come from one network here; it gets its turn when the
            # deadline has ended the first of them.
            with trio.fail_after(HEAD_TIMEOUT + 10):
                while b" 200 " not in (back := await ask_gently(net, port)):
                    assert back == b"" or back.startswith(b"HTTP/1.1 429 ")
                    await trio.sleep(0.2)
        finally:
            for stream in crowd:
                await trio.aclose_forcefully(stream)
        assert (await gateway.gateway_snapshot()).problems == []


async def test_one_asker_has_a_limit_of_requests(net: Loopback) -> None:
    async with heard(net, "--oam-each-max", 5) as (_, _, port):
        held = [await dial(net) for _ in range(5)]
        try:
            with trio.fail_after(10):
                assert (await ask(net, port)).startswith(b"HTTP/1.1 429 ")
        finally:
            for stream in held:
                await trio.aclose_forcefully(stream)
        await until(lambda: ask(net, port), lambda back: b" 200 " in back, "a turn")


async def test_tls_and_garbage_at_the_plain_entry(net: Loopback) -> None:
    garbage = [b"\x16\x03\x01\x02\x00", b"\x00" * 1000 + b"\r\n\r\n", b"SSH-2.0-x\r\n\r\n"]
    async with heard(net) as (gateway, target_heard, _):
        for data in [*garbage, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]:
            back = await said(net, data)
            assert back == b"" or back.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 ")), data
        assert target_heard.heads == []
        assert "Traceback" not in gateway.log.read_text()
