"""What the kernel is told about a connection."""

import socket

import pytest
import trio

from raven.net.tcp import close, receive_nowait, send_nowait, watch_peer
from raven.net.tls_stream import LINGER_NONE
from tests.net.loopback import tcp_streams


async def test_a_vanished_peer_is_looked_for() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, lambda stream: stream.aclose(), [listener])
        stream = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with stream:
            watch_peer(stream)
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            interval = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
            count = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
            assert isinstance(idle, int)
            assert isinstance(interval, int)
            assert isinstance(count, int)
            assert idle + interval * count == 120
        nursery.cancel_scope.cancel()


async def test_without_waiting() -> None:
    left, right = tcp_streams()
    assert receive_nowait(right, 100) is None
    assert send_nowait(left, b"hello") == 5
    await trio.lowlevel.wait_readable(right.socket)
    assert receive_nowait(right, 3) == b"hel"
    assert receive_nowait(right, 100) == b"lo"
    while send_nowait(left, bytes(1 << 20)):
        pass
    await close(right)
    await close(right)  # again does no harm
    assert send_nowait(right, b"x") == 0
    await close(left)


async def test_a_break_is_told_and_an_end_is_an_end() -> None:
    left, right = tcp_streams()
    await left.send_eof()
    await trio.lowlevel.wait_readable(right.socket)
    assert receive_nowait(right, 100) == b""
    right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    await close(right)
    await trio.lowlevel.wait_readable(left.socket)
    with pytest.raises(trio.BrokenResourceError):
        receive_nowait(left, 100)
    await close(left)
