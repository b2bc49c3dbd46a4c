"""A path in virtual time: a rate, a delay, and what a sender's kernel and the bottleneck's queue hold.

Nothing here waits for a real clock, so a figure measured over it is the tunnel's doing and the same on every
machine. What a machine's own speed does to it, the benchmarks show.
"""

from collections import deque

import trio

_PIECE = 16 * 1024  # bytes that travel together; a TLS record


class _Way:
    """One direction."""

    def __init__(self, *, rate: float, delay: float, held: int) -> None:
        self._rate = rate
        self._delay = delay
        self._held = held
        self._free_at = 0.0  # when the last byte taken so far has left
        self._arriving: deque[tuple[float, bytes]] = deque()
        self._ended = False
        self._news = trio.lowlevel.ParkingLot()

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            # Whoever sends waits while more is queued than kernel and bottleneck hold.
            room = (self._held - len(piece)) / self._rate
            await trio.sleep(max(0.0, self._free_at - trio.current_time() - room))
            self._free_at = max(self._free_at, trio.current_time()) + len(piece) / self._rate
            self._arriving.append((self._free_at + self._delay, piece))
            self._news.unpark_all()
        await trio.lowlevel.checkpoint()

    async def receive(self, most: int) -> bytes:
        while not self._arriving:
            if self._ended:
                return b""
            await self._news.park()
        at, data = self._arriving[0]
        await trio.sleep_until(at)
        if len(data) <= most:
            self._arriving.popleft()
            return data
        self._arriving[0] = at, data[most:]
        return data[:most]

    def end(self) -> None:
        self._ended = True
        self._news.unpark_all()


class _End(trio.abc.Stream):
    def __init__(self, out: _Way, back: _Way) -> None:
        self._out, self._back = out, back

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._out.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._back.receive(max_bytes or _PIECE)

    async def aclose(self) -> None:
        self._out.end()
        self._back.end()
        await trio.lowlevel.checkpoint()


def simulated_path(*, rate: float, delay: float, held: int) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """Both ends of a path of `rate` bytes a second and `delay` seconds each way that queues `held` bytes."""
    there = _Way(rate=rate, delay=delay, held=held)
    back = _Way(rate=rate, delay=delay, held=held)
    return _End(there, back), _End(back, there)
