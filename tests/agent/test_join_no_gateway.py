"""Joining at what is no gateway, or has no time: nobody, another server, a busy one; each is named."""

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from agent.join import join
from raven.config import Address
from raven.errors import PeerError
from raven.pki.token import new_token
from tests.agent.joining import quick_join, running
from tests.pki.material import make_authority, seeded

TOKEN = new_token(make_authority().pin, random=seeded())


async def test_a_gateway_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", unused.getsockname()[1])
        with pytest.raises(PeerError, match=rf"{address} cannot be reached: .*refused") as caught:
            await join(tmp_path / "agent", gateway=address, token=TOKEN.text(), node="shop-1")
    assert caught.value.reason == "unreachable"


Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def say_http(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await stream.send_eof()
    while await stream.receive_some():
        pass


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)
    await stream.aclose()


@pytest.mark.parametrize(
    ("handler", "sentence"), [(say_http, "does not speak TLS"), (hang_up, r"hung up|connection broke|broke")]
)
async def test_what_is_no_gateway_is_named(tmp_path: Path, handler: Handler, sentence: str) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        address = Address("127.0.0.1", listener.socket.getsockname()[1])
        with pytest.raises(PeerError, match=sentence) as caught:
            await join(tmp_path / "agent", gateway=address, token=TOKEN.text(), node="shop-1")
        nursery.cancel_scope.cancel()
    assert caught.value.reason == "handshake"
    assert str(address) in str(caught.value)


async def test_a_busy_gateway_is_no_stranger(tmp_path: Path) -> None:
    async def busy(stream: trio.SocketStream) -> None:
        await stream.send_all(b"RAVEN BUSY 7\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, busy, [listener])
        address = Address("127.0.0.1", listener.socket.getsockname()[1])
        with pytest.raises(
            PeerError, match=rf"{address}: it is busy, and asks to come back in 7 s"
        ) as caught:
            await join(tmp_path / "agent", gateway=address, token=TOKEN.text(), node="shop-1")
        nursery.cancel_scope.cancel()
    assert caught.value.reason == "busy"


async def test_a_tls_server_of_another_kind_is_named(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        world.context.set_alpn_protocols(["h2"])
        with pytest.raises(PeerError, match="is it a Raven gateway") as caught:
            await quick_join(tmp_path / "agent", world, world.token())
    assert caught.value.reason == "wrong-alpn"
