"""One stream of a tunnel as trio knows streams, and the peer's request that comes before one.

`raven.net.tunnel` makes these and tells them what became of their stream; they call its mux connection and
ask it to flush. The only waiting here is for the peer: for bytes, for room, for an answer.
"""

import operator
from collections.abc import Callable
from typing import Final, Protocol

import trio

from raven.errors import LocalError, RavenError, RefusedError
from raven.mux.codes import Priority, RefusalCode, ResetCode
from raven.mux.connection import Connection
from raven.mux.events import StreamId
from raven.mux.stream import StreamUsage
from raven.net.conflict import ConflictDetector

RECEIVE_DEFAULT: Final = 256 * 1024  # bytes of one receive_some unless another number is asked for
HANDED_MAX: Final = 16 * 1024  # bytes; more would hold up the other streams that the tunnel has read for

Hand = Callable[[bytes | bytearray], int]  # takes bytes without waiting; says how many


class TunnelLost(RavenError):
    """The tunnel ended without both sides wanting it; `reason` is a constant word for counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StreamRefused(RefusedError):
    """The other end did not take the stream; the message says why in words."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(code.name.lower().replace("_", "-"), message)
        self.code = code
        self.message = message


class Carrier(Protocol):
    """What a stream needs of its tunnel."""

    @property
    def connection(self) -> Connection: ...

    @property
    def lost(self) -> TunnelLost | None:
        """Why the tunnel ended; a stream then gets no more events."""

    def flush(self) -> None:
        """Call after every verb on the connection: handles its events and wakes the writer."""

    def adopt(self, stream: "TunnelStream") -> None:
        """The stream was accepted here and wants events."""

    def forget(self, stream: StreamId) -> None:
        """The stream wants no more events."""


class TunnelStream(trio.abc.HalfCloseableStream):
    """One stream of a tunnel.

    `send_all` returns when the bytes are in the stream's window, not when they have left. Cancelling it
    leaves the stream usable, with an unknown part of the data sent; cancelling `receive_some` loses nothing.
    `aclose` lets what was written arrive and does not wait for that; cancelled, it breaks the stream off, so
    that a half-written stream does not look whole. After a reset by the peer or the loss of the tunnel what
    was received can still be read, then every call raises BrokenResourceError.
    """

    header: bytes  # what the accepting end sent with its ACCEPT (opener), or the OPEN header (acceptor)

    opening: bytes  # the OPEN header, whichever end wrote it

    def __init__(
        self,
        carrier: Carrier,
        stream: StreamId,
        *,
        priority: Priority,
        opening: bytes,
        header: bytes = b"",
    ) -> None:
        self.header = header
        self.opening = opening
        self.priority = priority
        self.began = trio.current_time()
        self.stream = stream
        self._carrier = carrier
        self._connection = carrier.connection
        self._broken = ""  # why, once the peer or the tunnel is gone
        self._closed = False
        self._eof_sent = False
        self._eof_received = False
        self._hand: Hand | None = None  # of the one who waits for Readable
        self._rest: bytes | bytearray = b""  # what it did not take
        self._receiver = trio.lowlevel.ParkingLot()  # waits for Readable
        self._sender = trio.lowlevel.ParkingLot()  # waits for Writable
        self._receive_conflict = ConflictDetector("another task is receiving from this tunnel stream")
        self._send_conflict = ConflictDetector("another task is sending on this tunnel stream")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._send_conflict:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_sendable()
            if isinstance(data, memoryview):
                data = data.cast("B")
            taken = self._connection.send_data(self.stream, data)
            self._carrier.flush()
            if taken < len(data):
                rest = memoryview(data)[taken:]
                while rest:
                    await self._sender.park()
                    self._check_sendable()
                    rest = rest[self._connection.send_data(self.stream, rest) :]
                    self._carrier.flush()
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            while not self._connection.writable(self.stream):
                await self._sender.park()
                self._check_sendable()

    async def receive_some(
        self, max_bytes: int | None = None, *, hand: Hand | None = None
    ) -> bytes | bytearray:
        """As trio has it. Little that comes while this waits goes to `hand`, in the task that has read the
        tunnel: a keystroke then does not wait for this task to run. What `hand` does not take is returned.
        """
        most = RECEIVE_DEFAULT if max_bytes is None else operator.index(max_bytes)
        if most < 1:
            raise ValueError("max_bytes is at least 1")
        with self._receive_conflict:
            await trio.lowlevel.checkpoint_if_cancelled()
            parked = False
            while not self._closed:
                data = self._read(most)
                if data is not None:
                    if not parked:
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    return data
                self._check_unbroken()
                parked = True
                self._hand = hand
                try:
                    await self._receiver.park()
                finally:
                    self._hand = None
            raise trio.ClosedResourceError("this tunnel stream was closed here")

    def receive_nowait(self, max_bytes: int) -> bytes | bytearray | None:
        """Like receive_some, for who waits elsewhere; None when it would wait or raise."""
        if self._closed:
            return None
        with self._receive_conflict:
            return self._read(max_bytes)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Like send_all, for who waits elsewhere; the bytes taken, 0 when it would wait or raise."""
        if self._closed or self._eof_sent or self._broken:
            return 0
        with self._send_conflict:
            taken = self._connection.send_data(self.stream, data)
            self._carrier.flush()
            return taken

    async def send_eof(self) -> None:
        with self._send_conflict:
            await trio.lowlevel.checkpoint_if_cancelled()
            self.end()
            await trio.lowlevel.cancel_shielded_checkpoint()

    def end(self) -> None:
        """What `send_eof` does, without a checkpoint."""
        if self._closed:
            raise trio.ClosedResourceError("this tunnel stream was closed here")
        if not self._eof_sent:
            self._check_unbroken()
            self._eof_sent = True
            self._connection.send_eof(self.stream)
            self._carrier.flush()

    async def aclose(self) -> None:
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            self.reset(ResetCode.ABORTED, "cancelled")
            raise
        self.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def close(self) -> None:
        """What `aclose` does when it is not cancelled: it never waits."""
        if not self._closed:
            self._connection.close(self.stream)
            self._end()

    def reset(self, code: int, message: str) -> None:
        """Ends both directions at once, drops what has not left; the peer gets BrokenResourceError."""
        if not self._closed:
            self._connection.reset(self.stream, code, message)
            self._end()

    def usage(self) -> StreamUsage | None:
        """What it carried and where its bytes wait; None once it is over."""
        return self._connection.usage(self.stream)

    # Told by the tunnel ---------------------------------------------------------------------------

    def readable(self) -> None:
        if self._hand is None or not self._handed_on(self._hand):
            self._receiver.unpark_all()

    def _handed_on(self, hand: Hand) -> bool:
        """Whether all that has come has gone; only while the receiver is parked."""
        while self._connection.held(self.stream) <= HANDED_MAX:
            data = self._read(HANDED_MAX)
            if data is None:
                return True
            if (taken := hand(data) if data else 0) < len(data) or not data:
                self._rest = data[taken:]
                break
        return False

    def writable(self) -> None:
        self._sender.unpark_all()

    def broken(self, why: str) -> None:
        """The peer reset the stream, or the tunnel is lost."""
        self._broken = why
        self._receiver.unpark_all()
        self._sender.unpark_all()

    # Common ---------------------------------------------------------------------------------------

    def _read(self, most: int) -> bytes | bytearray | None:
        if self._rest:
            rest, self._rest = self._rest[:most], self._rest[most:]
            return rest
        if self._eof_received:
            return b""
        data = self._connection.read(self.stream, most, trio.current_time())
        if data is not None:
            self._eof_received = not data
            self._carrier.flush()  # a CREDIT may be due
        return data

    def _end(self) -> None:
        self._closed = True
        self._carrier.forget(self.stream)
        self._carrier.flush()
        self._receiver.unpark_all()
        self._sender.unpark_all()

    def _check_sendable(self) -> None:
        if self._closed or self._eof_sent:
            raise trio.ClosedResourceError("this tunnel stream was closed here")
        self._check_unbroken()

    def _check_unbroken(self) -> None:
        if self._broken:
            raise trio.BrokenResourceError(self._broken) from self._carrier.lost


class IncomingStream:
    """A stream the peer asks for. The handler accepts or refuses it; returning without either refuses it.

    When the peer takes the request back before that, the handler is cancelled: nobody waits any more.
    """

    def __init__(self, carrier: Carrier, stream: StreamId, *, header: bytes, priority: Priority) -> None:
        self.header = header
        self.priority = priority
        self.stream = stream
        self.taken: TunnelStream | None = None  # once accepted
        self.withdrawn = trio.CancelScope()  # the handler runs in it
        self._refused = False
        self._carrier = carrier

    async def accept(self, header: bytes = b"") -> TunnelStream:
        """The stream. BrokenResourceError when the peer no longer wants it or the tunnel is lost."""
        await trio.lowlevel.checkpoint()
        return self.accept_now(header)

    def accept_now(self, header: bytes = b"") -> TunnelStream:
        """What `accept` does, without a checkpoint."""
        if self._refused or self.taken:
            raise LocalError("this stream was answered before")
        if self.withdrawn.cancel_called:
            raise trio.BrokenResourceError("the other end has taken its request back")
        if self._carrier.lost:
            raise trio.BrokenResourceError(str(self._carrier.lost)) from self._carrier.lost
        self._carrier.connection.accept(self.stream, header)
        self.taken = TunnelStream(
            self._carrier, self.stream, priority=self.priority, opening=self.header, header=self.header
        )
        self._carrier.adopt(self.taken)
        self._carrier.flush()
        return self.taken

    async def refuse(self, code: RefusalCode, message: str) -> None:
        """Tells the opener why not."""
        await trio.lowlevel.checkpoint()
        if self._refused or self.taken:
            raise LocalError("this stream was answered before")
        self.refuse_now(code, message)

    def refuse_now(self, code: RefusalCode, message: str) -> None:
        """What `refuse` does, without a checkpoint; nothing when the stream was answered."""
        if not self._refused and not self.taken:
            self._refused = True
            self._carrier.connection.reset(self.stream, code, message)
            self._carrier.flush()
