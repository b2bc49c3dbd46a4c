"""Drives one `mux.Connection` over a trio stream: wait, feed, flush.

Above stand the gateway's and the agent's lanes, which see streams, control messages and one error,
`TunnelLost`; below stands any ordered byte stream, in earnest `raven.net.tls_stream`. Nothing here
understands a frame. Imports trio and the standard library only, because the idle agent pays for every import.
"""

from collections.abc import Awaitable, Callable

import trio

from raven.errors import RavenError, RefusedError
from raven.mux.codes import Priority, RefusalCode

__all__ = [
    "IncomingStream",
    "Priority",
    "RefusalCode",
    "StreamRefused",
    "Tunnel",
    "TunnelLost",
    "TunnelStream",
]


class TunnelLost(RavenError):
    """The tunnel ended without both sides wanting it; `reason` is a constant word for counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StreamRefused(RefusedError):
    """The other end did not take the stream."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(code.name.lower().replace("_", "-"), message)
        self.code = code
        self.message = message


class TunnelStream(trio.abc.HalfCloseableStream):
    """One stream of a tunnel, as trio knows streams.

    `send_all` returns when the bytes are in the stream's window, not when they have left. Cancelling it
    leaves the stream usable, with an unknown part of the data sent; cancelling `receive_some` loses nothing.
    `aclose` lets what was written arrive, then says that nobody reads any more; it does not wait for that.
    After the tunnel is lost every call raises BrokenResourceError (cause: TunnelLost), received bytes first.
    """

    header: bytes  # what the accepting end sent with its ACCEPT (opener), or the OPEN header (acceptor)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def wait_send_all_might_not_block(self) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        raise NotImplementedError

    async def send_eof(self) -> None: ...
    async def aclose(self) -> None: ...
    def reset(self, code: int, message: str) -> None:
        """Ends both directions at once and drops what is not sent yet; the peer gets BrokenResourceError."""


class IncomingStream:
    """A stream the peer asks for. The handler accepts or refuses it; returning without either refuses it."""

    header: bytes
    priority: Priority

    async def accept(self, header: bytes = b"") -> TunnelStream:
        raise NotImplementedError

    async def refuse(self, code: RefusalCode, message: str) -> None:
        raise NotImplementedError


class Tunnel:
    """One connection to one peer, and everything that runs over it."""

    control: trio.MemoryReceiveChannel[bytes]  # control messages in order; ends when the tunnel does
    last_heard: float  # trio.current_time() of the last byte received
    rtt: float | None  # seconds, smoothed
    bytes_in: int
    bytes_out: int
    streams_open: int
    peer: str

    def __init__(self, transport: trio.abc.Stream, *, initiator: bool, peer: str) -> None:
        raise NotImplementedError

    async def run(
        self,
        accept: Callable[[IncomingStream], Awaitable[None]] | None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries the tunnel until it ends; closes the transport.

        Returns after a GOAWAY of either side once the streams are done; TunnelLost otherwise. Each incoming
        stream runs `accept` in a task of its own; with None all are refused.
        """

    async def open_stream(self, header: bytes, *, priority: Priority = Priority.INTERACTIVE) -> TunnelStream:
        """A stream the peer has accepted; StreamRefused, TunnelLost. Cancelling takes the request back."""
        raise NotImplementedError

    async def send_control(self, data: bytes) -> None:
        """Queues one control message (at most 1 MiB), ahead of all streams; waits while the queue is full."""

    async def ping(self) -> float:
        """Seconds of a round trip through both ends' event loops. TunnelLost."""
        raise NotImplementedError

    async def drain(self, message: str) -> None:
        """Tells the peer we go away; returns, and so does `run`, when the streams have finished."""

    def abort(self, reason: str, message: str = "") -> None:
        """Ends the tunnel now: `run` raises TunnelLost, streams break."""
