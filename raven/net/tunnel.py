"""Drives one `mux.Connection` over a trio stream: wait, feed, flush.

Above stand the gateway's and the agent's lanes, which see streams, control messages and one error,
`TunnelLost`; below stands any ordered byte stream, in earnest `raven.net.tls_stream`. Nothing here
understands a frame. Imports trio and the standard library only, because the idle agent pays for every import.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, runtime_checkable

import trio

from raven.mux.codes import EndCode, Priority, RefusalCode, ResetCode
from raven.mux.connection import Connection, Limits
from raven.mux.events import (
    ConnectionEnded,
    ControlReceived,
    DatagramsReceived,
    GoAwayReceived,
    Pong,
    Readable,
    StreamAccepted,
    StreamId,
    StreamOpened,
    StreamReset,
    Writable,
)
from raven.net.tunnel_stream import IncomingStream, StreamRefused, TunnelLost, TunnelStream

__all__ = [
    "IncomingStream",
    "Priority",
    "RefusalCode",
    "StreamRefused",
    "Tunnel",
    "TunnelLost",
    "TunnelStream",
]

READ_MAX: Final = 256 * 1024  # bytes; what one wake-up may bring
CONTROL_WAITING: Final = 64  # control messages nobody has read; more means that nobody ever will
LAST_WORDS: Final = 1.0  # seconds for a GOAWAY and a close to leave
FLUSH_SMALL: Final = 4 * 1024  # bytes; less is worth a moment's wait for more
FLUSH_MIN: Final = 16 * 1024  # bytes; one TLS record
FLUSH_MAX: Final = 256 * 1024  # bytes; beyond it the cost per byte no longer falls
FLUSH_SLOW: Final = 0.020  # seconds; a flush that takes longer holds up a keystroke
FLUSH_FAST: Final = 0.010  # seconds; one that takes less may be larger

# Reasons after which the other end does not listen any more.
_UNHEARD: Final = frozenset({"silent", "eof", "transport", "ended-by-peer"})

Accept = Callable[[IncomingStream], Awaitable[None]]


@runtime_checkable
class BorrowingStream(Protocol):
    """A transport that lends what it received instead of copying it."""

    async def receive_borrowed(self, max_bytes: int) -> memoryview:
        """Like receive_some; the view is valid until the next call."""


class Tunnel:
    """One connection to one peer, and everything that runs over it."""

    def __init__(
        self, transport: trio.abc.Stream, *, initiator: bool, peer: str, limits: Limits | None = None
    ) -> None:
        self.peer = peer
        self.bytes_in = 0
        self.bytes_out = 0
        self.lost: TunnelLost | None = None
        self.connection = Connection(initiator=initiator, now=trio.current_time(), limits=limits or Limits())
        self.on_datagrams: Callable[[int, int, bytes], None] | None = None  # flow, segment size, segments
        # Full means that the consumer is stuck; waiting for it would stall every stream, so the tunnel ends.
        self._control_in, self.control = trio.open_memory_channel[bytes](CONTROL_WAITING)
        self._transport = transport
        self._streams: dict[StreamId, TunnelStream] = {}
        self._offered: dict[StreamId, IncomingStream] = {}  # asked for by the peer, no answer yet
        self._asked: dict[StreamId, _Answer] = {}  # asked for by us, no answer yet
        self._pings: dict[int, _Answer] = {}
        self._accept: Accept | None = None
        self._handlers: trio.Nursery | None = None
        self._loops = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._writing = trio.CancelScope()
        self._writer = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()  # senders of control messages
        self._timer = trio.Event()
        self._timer_at = float("-inf")
        self._leaving = False  # we sent a GOAWAY and close when the streams are done
        self._finished = trio.Event()
        self._dispatch: dict[type, Callable[..., None]] = {
            Readable: self._on_readable,
            Writable: self._on_writable,
            StreamOpened: self._on_opened,
            StreamAccepted: self._on_accepted,
            StreamReset: self._on_reset,
            ControlReceived: self._on_control,
            DatagramsReceived: self._on_datagrams,
            Pong: self._on_pong,
            GoAwayReceived: lambda event: None,
            ConnectionEnded: self._on_ended,
        }

    # What the lanes use ---------------------------------------------------------------------------

    @property
    def last_heard(self) -> float:
        """trio.current_time() of the last byte received."""
        return self.connection.last_heard

    @property
    def rtt(self) -> float | None:
        """Seconds of a round trip, smoothed; None before the first."""
        return self.connection.rtt

    @property
    def streams_open(self) -> int:
        return self.connection.streams_open

    def streams(self) -> list[TunnelStream]:
        """The streams that are accepted and open here, and those this end has asked for."""
        return list(self._streams.values())

    @property
    def going_away(self) -> bool:
        """Whether either end takes no more streams."""
        return self.connection.going_away

    @property
    def counters(self) -> Counter[str]:
        """What was ignored or dropped, by reason."""
        return self.connection.counters

    async def open_stream(self, header: bytes, *, priority: Priority = Priority.INTERACTIVE) -> TunnelStream:
        """A stream the peer has accepted; StreamRefused, TunnelLost. Cancelling takes the request back."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check()
        refusal = self.connection.why_not_open()
        if refusal is not None:
            why = "is going away" if refusal is RefusalCode.GOING_AWAY else "has too many streams open"
            raise StreamRefused(refusal, f"the tunnel to {self.peer} {why}")
        stream_id = self.connection.open_stream(header, priority=priority)
        stream = TunnelStream(self, stream_id, priority=priority, opening=header)
        answer = self._asked[stream_id] = _Answer()
        self._streams[stream_id] = stream
        self.flush()
        try:
            await answer.wait()
        except trio.Cancelled:
            stream.reset(ResetCode.CANCELLED, "the opener gave up")
            raise
        finally:
            del self._asked[stream_id]
        if answer.refused:
            self.forget(stream_id)
            raise answer.refused
        self._check()
        return stream

    async def send_control(self, data: bytes) -> None:
        """Queues one control message (at most 1 MiB), ahead of all streams; waits while the queue is full."""
        await trio.lowlevel.checkpoint()
        self._check()
        while not self.connection.send_control(data):
            await self._room.park()
            self._check()
        self.flush()

    def send_datagrams(self, flow: int, *, segment_size: int, data: bytes | memoryview) -> bool:
        """Queues a run of datagrams; False when there is no room and the run is dropped."""
        queued = self.connection.send_datagrams(flow, segment_size=segment_size, data=data)
        self.flush()
        return queued

    async def ping(self) -> float:
        """Seconds of a round trip through both ends' event loops. TunnelLost."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check()
        token = self.connection.ping(trio.current_time())
        answer = self._pings[token] = _Answer()
        self.flush()
        try:
            await answer.wait()
        finally:
            del self._pings[token]
        self._check()
        return answer.rtt

    async def drain(self, message: str) -> None:
        """Tells the peer we go away; returns, and so does `run`, when the streams have finished or the
        tunnel is lost. The caller bounds the time.
        """
        if not self._leaving:
            self._leaving = True
            self.connection.go_away(EndCode.SHUTDOWN, message)
            self.flush()
        await self._finished.wait()

    def abort(self, reason: str, message: str = "") -> None:
        """Ends the tunnel now: `run` raises TunnelLost, streams break."""
        self._lose(reason, message or reason)

    async def run(
        self,
        accept: Accept | None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries the tunnel until it ends; closes the transport.

        Returns after a GOAWAY of either side once the streams are done; TunnelLost otherwise. Each incoming
        stream runs `accept` in a task of its own and ends with it; with None all are refused. A handler may
        let BrokenResourceError and ClosedResourceError pass: its stream is reset then. Whatever else it
        raises comes out of here.
        """
        self._accept = accept
        graceful = False
        try:
            async with trio.open_nursery() as self._handlers:
                with self._loops:
                    async with trio.open_nursery() as loops:
                        loops.start_soon(self._read)
                        loops.start_soon(self._write)
                        loops.start_soon(self._watch)
                        self.connection.ping(trio.current_time())  # the first round trip, for status
                        self.flush()
                        task_status.started()
                self._break_all()
                if self.lost:
                    self._handlers.cancel_scope.cancel()
            graceful = self.lost is None or self.lost.reason not in _UNHEARD
        finally:
            if self.lost is None and not graceful:
                self.lost = TunnelLost("cancelled", f"the tunnel to {self.peer} was shut down")
            self._break_all()
            self._control_in.close()
            self._finished.set()
            await self._close(graceful=graceful)
        if self.lost is not None:
            raise self.lost

    # The loops ------------------------------------------------------------------------------------

    async def _read(self) -> None:
        transport, connection = self._transport, self.connection
        receive = (
            transport.receive_borrowed if isinstance(transport, BorrowingStream) else transport.receive_some
        )
        with self._reading:
            try:
                while data := await receive(READ_MAX):
                    self.bytes_in += len(data)
                    connection.receive_data(data, trio.current_time())
                    self.flush()
                connection.receive_eof()
                self.flush()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                if connection.going_away and not connection.streams_open:
                    connection.receive_eof()
                    self.flush()
                else:
                    self._lose("transport", f"{error.__cause__ or error}", cause=error)

    async def _write(self) -> None:
        transport, connection = self._transport, self.connection
        size = FLUSH_MIN
        with self._writing:
            try:
                while not self._done:
                    if not connection.wants_to_send:
                        await self._writer.park()
                    data = connection.data_to_send(size)
                    if len(data) < FLUSH_SMALL:
                        # Whoever else is ready to run may add to a flush that would cost a record alone.
                        await trio.lowlevel.checkpoint()
                        data += connection.data_to_send(size)
                    self._room.unpark_all()
                    if not data:
                        continue
                    begin = trio.current_time()
                    await transport.send_all(data)
                    self.bytes_out += len(data)
                    taken = trio.current_time() - begin
                    if taken > FLUSH_SLOW:
                        size = max(FLUSH_MIN, size // 2)
                    elif taken < FLUSH_FAST and len(data) >= size // 2:
                        size = min(FLUSH_MAX, size * 2)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                # What the peer said before it closed may still be on its way to the reader.
                await trio.sleep(LAST_WORDS)
                self._lose("transport", f"{error.__cause__ or error}", cause=error)
        self._loops.cancel()

    @property
    def _done(self) -> bool:
        """Whether the last flush has gone out."""
        if self.connection.wants_to_send:
            return False
        return self.connection.ended or (self._leaving and not self.connection.streams_open)

    async def _watch(self) -> None:
        while True:
            at = self.connection.next_timeout()
            if at is None:
                return
            self._timer_at, self._timer = at, trio.Event()
            with trio.move_on_at(at):
                await self._timer.wait()
            if trio.current_time() >= at:
                # After a busy time bytes may wait in the socket that answer; let the reader take them.
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                self.connection.handle_timeout(trio.current_time())
                self.flush()

    async def _serve(self, incoming: IncomingStream, accept: Accept) -> None:
        whole = False
        try:
            with incoming.withdrawn:
                await accept(incoming)
                whole = True
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._offered.pop(incoming.stream, None)
            incoming.refuse_now(RefusalCode.INTERNAL, "no answer from the program behind this end")
            if incoming.taken and whole:
                incoming.taken.close()
            elif incoming.taken:
                incoming.taken.reset(ResetCode.ABORTED, "the program behind this end broke off")

    async def _close(self, *, graceful: bool) -> None:
        # Shielded: a cancellation here would take the place of the error that brought us here.
        with trio.move_on_after(LAST_WORDS) as scope:
            scope.shield = True
            if graceful:
                await self._transport.aclose()
            else:
                await trio.aclose_forcefully(self._transport)

    # Events ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Call after every verb on the connection: handles its events, wakes writer and timer."""
        connection = self.connection
        for event in connection.events():
            self._dispatch[type(event)](event)
        if connection.wants_to_send or (self._leaving and not connection.streams_open):
            self._writer.unpark_all()
        at = connection.next_timeout()
        if at is None or at < self._timer_at:
            self._timer.set()

    def adopt(self, stream: TunnelStream) -> None:
        self._offered.pop(stream.stream, None)
        self._streams[stream.stream] = stream

    def forget(self, stream: StreamId) -> None:
        self._streams.pop(stream, None)

    def _on_readable(self, event: Readable) -> None:
        self._streams[event.stream].readable()

    def _on_writable(self, event: Writable) -> None:
        self._streams[event.stream].writable()

    def _on_opened(self, event: StreamOpened) -> None:
        incoming = IncomingStream(self, event.stream, header=event.header, priority=event.priority)
        if self._accept is None or self._handlers is None:
            incoming.refuse_now(RefusalCode.FORBIDDEN, "this end takes no streams")
            return
        self._offered[event.stream] = incoming
        self._handlers.start_soon(self._serve, incoming, self._accept)

    def _on_accepted(self, event: StreamAccepted) -> None:
        self._streams[event.stream].header = event.header
        self._asked[event.stream].set()

    def _on_reset(self, event: StreamReset) -> None:
        if event.stream in self._asked and not self._asked[event.stream].come:
            self._asked[event.stream].refuse(event.code, event.message)
        elif event.stream in self._offered:
            self._offered.pop(event.stream).withdrawn.cancel()
        elif event.stream in self._streams:
            text = f": {event.message}" if event.message else ""
            self._streams[event.stream].broken(f"the other end broke the stream off{text}")

    def _on_control(self, event: ControlReceived) -> None:
        try:
            self._control_in.send_nowait(event.data)
        except trio.WouldBlock:
            self._lose("control-stuck", f"{CONTROL_WAITING} control messages wait and nobody reads them")
        except trio.BrokenResourceError:
            self.counters["control-unread"] += 1

    def _on_datagrams(self, event: DatagramsReceived) -> None:
        if self.on_datagrams is None:
            self.counters["datagrams-unread"] += 1
        else:
            self.on_datagrams(event.flow, event.segment_size, event.data)

    def _on_pong(self, event: Pong) -> None:
        if event.token in self._pings:
            self._pings[event.token].rtt = event.rtt
            self._pings[event.token].set()

    def _on_ended(self, event: ConnectionEnded) -> None:
        if event.error is None:
            self._loops.cancel()
        else:
            self._lose(event.error.reason, str(event.error))

    # Ending ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.lost:
            raise TunnelLost(self.lost.reason, str(self.lost)) from self.lost
        if self._finished.is_set():
            raise TunnelLost("closed", f"the tunnel to {self.peer} is closed")

    def _lose(self, reason: str, message: str, *, cause: Exception | None = None) -> None:
        """The first reason counts. The writer gets a moment for last words to a peer that can hear them."""
        if self.lost is not None:
            return
        self.lost = TunnelLost(reason, f"the tunnel to {self.peer} was lost: {message}")
        self.lost.__cause__ = cause
        if reason in _UNHEARD:
            self._loops.cancel()
        else:
            if not self.connection.ended:
                self.connection.go_away(EndCode.INTERNAL, message)
            self._reading.cancel()
            self._writing.deadline = trio.current_time() + LAST_WORDS
            self._writer.unpark_all()
        self._break_all()

    def _break_all(self) -> None:
        why = str(self.lost or f"the tunnel to {self.peer} is closed")
        for stream in self._streams.values():
            stream.broken(why)
        for answer in (*self._asked.values(), *self._pings.values()):
            answer.set()
        self._room.unpark_all()


class _Answer:
    """What a task waits for that has asked the peer something."""

    def __init__(self) -> None:
        self.rtt = 0.0
        self.refused: StreamRefused | None = None
        self._come = trio.Event()

    @property
    def come(self) -> bool:
        return self._come.is_set()

    def set(self) -> None:
        self._come.set()

    def refuse(self, code: int, message: str) -> None:
        known = RefusalCode(code) if code in RefusalCode.__members__.values() else RefusalCode.INTERNAL
        self.refused = StreamRefused(known, message)
        self._come.set()

    async def wait(self) -> None:
        await self._come.wait()
