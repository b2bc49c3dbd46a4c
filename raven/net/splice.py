"""Joins two streams: what one reads the other writes, both ways, until both directions have ended.

Used at either end of a tunnel, between a TunnelStream and a TCP connection. Bytes are not looked at.
"""

import contextlib
import socket
from dataclasses import dataclass
from typing import Final

import trio
from trio.abc import AsyncResource, HalfCloseableStream

from raven.mux.codes import ResetCode
from raven.net import tcp
from raven.net.tls_over_stream import TLSOverStream
from raven.net.tls_stream import LINGER_NONE, TLSStream
from raven.net.tunnel_stream import TunnelStream

SMALL: Final = 16 * 1024  # bytes; who sends less than this at once most often has no more
BUFFER: Final = 256 * 1024  # bytes read at once; beyond it the cost per byte no longer falls


@dataclass(frozen=True, slots=True)
class SpliceResult:
    """How a splice ended: bytes carried each way, and a sentence when one side broke off."""

    bytes_a_to_b: int
    bytes_b_to_a: int
    aborted: str = ""


@dataclass(slots=True)
class Copied:
    """What a splice has carried so far, for whoever cancels it and wants to know all the same."""

    a_to_b: int = 0  # bytes
    b_to_a: int = 0


async def splice(
    a: HalfCloseableStream, b: HalfCloseableStream, copied: Copied | None = None
) -> SpliceResult:
    """Copies until both ends have said EOF; half-closes propagate. Closes both streams, always.

    When one side breaks, the other is aborted, so that nobody takes half an answer for a whole one: RESET on
    a tunnel stream, RST on a TCP connection. So are both when cancelled. A side that only reads no more gets
    to say what it still has to say. `copied` is filled in however it ends.
    """
    forth, back = _Direction(a, b), _Direction(b, a)
    ended = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(back.copy, nursery.cancel_scope)
            await forth.copy(nursery.cancel_scope)
        ended = True
    finally:
        if copied is not None:
            copied.a_to_b, copied.b_to_a = forth.copied, back.copied
        if not ended or forth.source_broken or back.source_broken:
            why = forth.source_broken or back.source_broken or "cancelled"
            abort(a, why)
            abort(b, why)
        else:
            await _finish(a, forth)
            await _finish(b, back)
        try:
            await _close(a)
        finally:
            await _close(b)
    aborted = forth.source_broken or back.source_broken or forth.sink_broken or back.sink_broken
    return SpliceResult(forth.copied, back.copied, aborted)


def abort(stream: AsyncResource, why: str) -> None:
    """Lets the other end of `stream` see a break, not an end: at once in a tunnel, else when it is closed."""
    if isinstance(stream, TunnelStream):
        stream.reset(ResetCode.ABORTED, why)
    elif isinstance(stream, TLSOverStream):
        abort(stream.transport, why)
    elif isinstance(stream, TLSStream):
        stream.abort()
    elif isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError, trio.ClosedResourceError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)


class _Direction:
    """One of the two directions, and how far it came."""

    def __init__(self, source: HalfCloseableStream, sink: HalfCloseableStream) -> None:
        self.copied = 0
        self.source_broken = ""
        self.sink_broken = ""
        self._source = source
        self._sink = sink
        self._dry = False  # the last read of the socket took all there was

    async def copy(self, both: trio.CancelScope) -> None:
        """Copies to the end. A source that breaks ends both directions; a sink that breaks only this one,
        because the other end of it may have answered before it hung up.
        """
        while True:
            try:
                data = await self._receive()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.source_broken = str(error) or "the connection broke"
                both.cancel()
                return
            try:
                if not data:
                    await self._send_eof()
                    return
                await self._send(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.sink_broken = str(error) or "the connection broke"
                return

    # One side of a splice always waits for the kernel and lets others run, so the tunnel's side need not:
    # a pass of the event loop costs as much as sealing two records.

    async def _receive(self) -> bytes | bytearray:
        source = self._source
        if isinstance(source, TunnelStream):
            data = source.receive_nowait(BUFFER)
            if data is None:
                hand = self._hand_on if isinstance(self._sink, trio.SocketStream) else None
                data = await source.receive_some(BUFFER, hand=hand)
            return data
        if isinstance(source, TLSStream):
            # All the records that are there: each alone would cost a pass and a frame.
            return bytes(await source.receive_borrowed(BUFFER, eager=True))
        if not isinstance(source, trio.SocketStream):
            return await source.receive_some(BUFFER)
        if not self._dry:
            await trio.lowlevel.checkpoint()
        while self._dry or (data := tcp.receive_nowait(source, BUFFER)) is None:
            await trio.lowlevel.wait_readable(source.socket)
            self._dry = False
        self._dry = len(data) < SMALL  # what comes next is most often not there yet
        return data

    def _hand_on(self, data: bytes | bytearray) -> int:
        sent = tcp.send_nowait(self._sink, data)
        self.copied += sent
        return sent

    async def _send(self, data: bytes | bytearray) -> None:
        if isinstance(self._sink, TunnelStream):
            sent = self._sink.send_nowait(data)
            self.copied += sent
        else:
            sent = self._hand_on(data)
            if sent == len(data):
                await trio.lowlevel.checkpoint()
        if sent < len(data):
            await self._sink.send_all(memoryview(data)[sent:])
            self.copied += len(data) - sent

    async def _send_eof(self) -> None:
        if isinstance(self._sink, TunnelStream):
            self._sink.end()
        else:
            await self._sink.send_eof()


async def _finish(stream: AsyncResource, reading: _Direction) -> None:
    """Before the close of what nobody reads to its end, as its bytes have nowhere to go: it shall have all
    that it was told.
    """
    if reading.sink_broken and isinstance(stream, trio.SocketStream | TLSStream):
        await tcp.finish(stream.socket)


async def _close(stream: AsyncResource) -> None:
    if isinstance(stream, TunnelStream):
        stream.close()
    elif isinstance(stream, trio.SocketStream):
        await tcp.close(stream)
    else:
        await stream.aclose()
