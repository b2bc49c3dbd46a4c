"""A gateway and the agent of one node, as processes, and how to ask for that node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.daemons import Daemon, Loopback
from tests.gateway.oam.site import read_all

NODE = "shop-1"


@asynccontextmanager
async def connected(net: Loopback, *options: object, allow: str = "node:*") -> AsyncIterator[Daemon]:
    async with net.gateway(*options) as gateway:
        await net.join(NODE)
        async with net.agent(NODE, "--allow", allow):
            await gateway.connected(NODE)
            yield gateway


async def ask(net: Loopback, port: int) -> bytes:
    """The answer to a request of nobody in particular, from loopback."""
    host, _, entry = net.oam.rpartition(":")
    async with await trio.open_tcp_stream(host, int(entry)) as stream:
        await stream.send_all(b"GET http://%s:%d/ HTTP/1.0\r\nHost: x\r\n\r\n" % (NODE.encode(), port))
        return await read_all(stream)
