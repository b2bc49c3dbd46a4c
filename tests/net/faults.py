"""A path with faults: a TCP proxy of our own that delays, limits, cuts, swallows and corrupts.

Bytes of either direction arrive `delay` seconds late and no faster than `rate`. The path itself holds no more
than one bandwidth-delay product and QUEUE bytes, as a router would; the sender waits for the rest.
"""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

QUEUE = 64 * 1024  # bytes
CHUNK = 16 * 1024  # bytes
CATCH_UP = 0.01  # seconds; what a link sends at once after its process slept for as long
_RST = struct.pack("ii", 1, 0)  # SO_LINGER that turns close into a reset


class FaultyPath:
    """Proxies every connection to `port`; what it does to them may change at any time."""

    def __init__(self, *, delay: float = 0.0, rate: float = 0.0) -> None:
        self.delay = delay  # seconds, one way
        self.rate = rate  # bytes a second, each way; 0: as fast as it goes
        self.port = 0  # where to dial instead
        self.dead = [False, False]  # swallow what comes from the dialler, or from the listener
        self.corrupt = False  # flip a bit in the next bytes from the dialler
        self.connections = 0  # ever
        self.carried = 0  # bytes
        self._live: set[tuple[trio.SocketStream, trio.SocketStream]] = set()

    def black_hole(self, dead: bool = True) -> None:
        """Both directions swallow everything, and nobody is told."""
        self.dead = [dead, dead]

    def cut(self) -> int:
        """Resets every connection, as a middlebox that forgot them; how many there were."""
        live = list(self._live)
        for pair in live:
            for stream in pair:
                with suppress(OSError):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                stream.socket.close()
        return len(live)

    async def serve(self, target: int, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        """Until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]

        async def carry(near: trio.SocketStream) -> None:
            self.connections += 1
            far = await trio.open_tcp_stream("127.0.0.1", target)
            for stream in (near, far):
                if self.rate:
                    # The kernel of this machine would be the deepest queue of the path.
                    bytes_ = max(QUEUE // 2, int(self.rate * 2 * CATCH_UP))
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, bytes_)
            pair = (near, far)
            self._live.add(pair)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._direction, 0, near, far, nursery)
                    nursery.start_soon(self._direction, 1, far, near, nursery)
            finally:
                self._live.discard(pair)
                for stream in pair:
                    stream.socket.close()

        await trio.serve_listeners(carry, listeners, task_status=task_status)

    async def _direction(
        self, number: int, source: trio.SocketStream, sink: trio.SocketStream, nursery: trio.Nursery
    ) -> None:
        holds = max(1, int((QUEUE + self.rate * self.delay) // CHUNK)) if self.rate else 4096
        entry, exit_ = trio.open_memory_channel[tuple[float, bytes]](holds)

        async def deliver() -> None:
            async for at, data in exit_:
                await trio.sleep_until(at)
                if data:
                    await sink.send_all(data)
                else:
                    await sink.send_eof()

        async def take() -> None:
            free = trio.current_time()  # when the link has sent what it has
            data = b"-"
            while data:
                data = bytes(await source.receive_some(max(CHUNK, int(self.rate * CATCH_UP) // 4)))
                if self.dead[number]:
                    continue
                if self.corrupt and number == 0 and data:
                    self.corrupt = False
                    data = data[:-1] + bytes([data[-1] ^ 1])
                self.carried += len(data)
                free = max(free, trio.current_time() - CATCH_UP)
                free += len(data) / self.rate if self.rate else 0.0
                await entry.send((max(free, trio.current_time()) + self.delay, data))
                if self.rate:
                    await trio.sleep_until(free)

        try:
            async with trio.open_nursery() as both:
                both.start_soon(deliver)
                await take()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def faulty_path(target: int, *, delay: float = 0.0, rate: float = 0.0) -> AsyncIterator[FaultyPath]:
    """A path to a listener on loopback."""
    path = FaultyPath(delay=delay, rate=rate)
    async with trio.open_nursery() as nursery:
        await nursery.start(path.serve, target)
        yield path
        nursery.cancel_scope.cancel()
