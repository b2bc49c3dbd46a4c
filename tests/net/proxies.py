"""Proxies of a test: a port of loopback, and what is said there."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio

from raven.net.proxy import Proxy, Ways

Handler = Callable[[trio.SocketStream], Awaitable[None]]
OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A port of loopback that `handler` serves."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                await handler(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def head_of(stream: trio.SocketStream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    return head


def answering(answer: bytes) -> Handler:
    async def handle(stream: trio.SocketStream) -> None:
        await head_of(stream)
        await stream.send_all(answer)
        await stream.send_eof()
        while await stream.receive_some():
            pass

    return handle


def through(port: int, authorization: str = "") -> Ways:
    return Ways(Proxy("127.0.0.1", port, authorization))
