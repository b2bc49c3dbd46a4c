"""A gateway's end of joins, over TLS and TCP on loopback, for agents of a test."""

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from agent.join import Joined, join
from gateway.admin.token import add_token
from gateway.join import OwnEnroller, serve_join
from raven.config import Address
from raven.net.tls import gateway_context
from raven.net.tls_stream import HandshakeFailed, server_handshake
from raven.registry.gateway_state import GatewayState, open_gateway
from raven.registry.sqlite import SqliteRegistry


@dataclass
class World:
    """A gateway's end that listens, and how the joins there ended."""

    state: GatewayState
    registry: SqliteRegistry
    context: ssl.SSLContext
    address: Address
    ended: trio.MemorySendChannel[str]
    endings: trio.MemoryReceiveChannel[str]
    answers: bool = True  # False: the line breaks before the answer

    def token(self, node: str | None = None) -> str:
        return add_token(self.registry, self.state.authority.pin, node=node, now=time.time())

    async def serve(self, transport: trio.SocketStream) -> None:
        try:
            stream = await server_handshake(transport, self.context)
        except HandshakeFailed:
            return
        served: trio.abc.Stream = stream if self.answers else Mute(stream)
        result = await serve_join(
            served,
            enroller=OwnEnroller(self.state.authority, self.registry),
            gateways=["gw.example.com:443"],
            peer="test",
        )
        await self.ended.send(result.verdict)

    async def verdicts(self, count: int) -> list[str]:
        """Of the next joins to end."""
        with trio.fail_after(10):
            return [await self.endings.receive() for _ in range(count)]


class Mute(trio.abc.Stream):
    """Lets the hello out and breaks when the answer is due."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sent = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._sent += 1
        if self._sent > 1:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[World]:
    state = open_gateway(directory, hosts=["127.0.0.1"], now=time.time())
    registry = SqliteRegistry(state.registry, now=time.time())
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = Address("127.0.0.1", listener.socket.getsockname()[1])
        world = World(state, registry, gateway_context(state), address, *trio.open_memory_channel[str](100))
        nursery.start_soon(trio.serve_listeners, world.serve, [listener])
        yield world
        nursery.cancel_scope.cancel()
    registry.close()
    state.close()


async def quick_join(directory: Path, world: World, token: str, node: str = "shop-1", **given: Any) -> Joined:
    joined = await join(directory, gateway=world.address, token=token, node=node, **given)
    joined.state.close()
    return joined
