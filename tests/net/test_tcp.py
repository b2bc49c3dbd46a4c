"""What the kernel is told about a connection."""

import socket

import trio

from raven.net.tcp import watch_peer


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
