"""One `mux.Connection` and everything that runs over it, over one transport after another.

Above stand the gateway's and the agent's lanes, which see streams, control messages and one error,
`TunnelLost`; below, `transport_driver` carries the connection over any ordered byte stream, in earnest
`raven.net.tls_stream`. When a transport breaks and `Limits.grace` allows, the tunnel waits for the next
(`carry`), and its streams notice a pause. Nothing here understands a frame. Imports trio and the standard
library only, because the idle agent pays for every import.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import trio

from raven.errors import PeerError
from raven.mux.codes import EndCode, Priority, RefusalCode
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
    Suspended,
    Writable,
)
from raven.mux.keepalive import Keepalive
from raven.mux.resume import Resume
from raven.net.alarm import Alarm
from raven.net.stream_table import Accept, Answer, StreamEvent, StreamTable
from raven.net.succession import Succession
from raven.net.transport_driver import Carriage
from raven.net.tunnel_stream import IncomingStream, StreamRefused, TunnelLost, TunnelStream

__all__ = [
    "Carriage",
    "IncomingStream",
    "Priority",
    "RefusalCode",
    "StreamRefused",
    "Tunnel",
    "TunnelLost",
    "TunnelStream",
]

PING_MAX: Final = 8.0  # seconds that who asks for a person waits; a satellite and a queue take two
CONTROL_WAITING: Final = 64  # control messages nobody has read; more means that nobody ever will

# Reasons after which the other end does not listen any more.
_UNHEARD: Final = frozenset({"silent", "eof", "transport", "ended-by-peer", "not-resumed"})


class Tunnel:
    """One connection to one peer."""

    def __init__(
        self,
        transport: trio.abc.Stream | Carriage,
        *,
        initiator: bool,
        peer: str,
        limits: Limits | None = None,
        keepalive: Keepalive | None = None,
    ) -> None:
        self.peer = peer
        self.bytes_in = 0
        self.bytes_out = 0
        self.lost: TunnelLost | None = None
        self.back: int = 0  # seconds to stay away for, as the peer asked with its GOAWAY; 0 when it did not
        self.connection = Connection(
            initiator=initiator, now=trio.current_time(), limits=limits, keepalive=keepalive
        )
        self.on_datagrams: Callable[[int, int, bytes], None] | None = None  # flow, segment size, segments
        # Full means that the consumer is stuck; waiting for it would stall every stream, so the tunnel ends.
        self._control_in, self.control = trio.open_memory_channel[bytes](CONTROL_WAITING)
        first = transport if isinstance(transport, Carriage) else Carriage(transport)
        self._transports = Succession(self, first, initiator=initiator)
        self._cause: Exception | None = None  # why the last transport broke
        self._streams = StreamTable(self)
        self._pings: dict[int, Answer] = {}
        self._loops = trio.CancelScope()
        self._room = trio.lowlevel.ParkingLot()  # senders of control messages
        self._alarm = Alarm(self.connection.next_timeout, self._timed_out)
        self._flushing = False
        self._leaving = False  # we sent a GOAWAY and close when the streams are done
        self._finished = trio.Event()

    # What the lanes use ---------------------------------------------------------------------------

    @property
    def last_heard(self) -> float:
        """trio.current_time() of the last byte received."""
        return self.connection.last_heard

    @property
    def suspended_since(self) -> float | None:
        """trio.current_time() when the transport was lost; None while there is one."""
        return self.connection.suspended_since

    @property
    def rtt(self) -> float | None:
        """Seconds of a round trip, smoothed; None before the first."""
        return self.connection.rtt

    @property
    def streams_open(self) -> int:
        return self.connection.streams_open

    def streams(self) -> list[TunnelStream]:
        """The streams that are accepted and open here, and those this end has asked for."""
        return self._streams.all()

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
        stream = await self._streams.open(header, priority)
        self._check()
        assert stream is not None
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
        answer = self._pings[token] = Answer()
        self.flush()
        try:
            await answer.wait()
        finally:
            del self._pings[token]
        self._check()
        return answer.rtt

    async def drain(self, message: str, *, back: int = 0) -> None:
        """Tells the peer we go away, and may be dialled again after `back` seconds; returns, and so does
        `run`, when the streams have finished or the tunnel is lost. The caller bounds the time.
        """
        if not self._leaving:
            self._leaving = True
            self.connection.go_away(EndCode.SHUTDOWN, message, back=back)
            self.flush()
            self._transports.change()
        await self._finished.wait()

    def abort(self, reason: str, message: str = "") -> None:
        """Ends the tunnel now: `run` raises TunnelLost, streams break."""
        self.lose(reason, message or reason)

    async def run(
        self,
        accept: Accept | None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries the tunnel until it ends; closes its transports.

        Returns after a GOAWAY of either side once the streams are done; TunnelLost otherwise. Each incoming
        stream runs `accept` in a task of its own and ends with it; with None all are refused. A handler may
        let BrokenResourceError and ClosedResourceError pass: its stream is reset then. Whatever else it
        raises comes out of here.
        """
        self._streams.accept = accept
        # Told to the peer: whoever cancels us does not come back to this connection.
        graceful = True
        try:
            async with trio.open_nursery() as handlers:
                self._streams.handlers = handlers
                async with trio.open_nursery() as loops:
                    if self._loops.cancel_called:
                        loops.cancel_scope.cancel()
                    self._loops = loops.cancel_scope
                    loops.start_soon(self._alarm.run)
                    self.connection.ping(trio.current_time())  # the first round trip, for status
                    self.flush()
                    task_status.started()
                    await self._transports.run()
                    loops.cancel_scope.cancel()
                self._break_all()
                if self.lost:
                    handlers.cancel_scope.cancel()
                    graceful = self.lost.reason not in _UNHEARD
        except BaseException:
            self.lost = self.lost or TunnelLost("cancelled", f"the tunnel to {self.peer} was shut down")
            raise
        finally:
            self._break_all()
            self._control_in.close()
            self._finished.set()
            await self._transports.close(graceful=graceful)
        if self.lost is not None:
            raise self.lost

    # Transports -----------------------------------------------------------------------------------

    @property
    def resumed(self) -> int:
        """How often it went on over another transport."""
        return self._transports.resumed

    @property
    def unresumed(self) -> Carriage | None:
        """A transport on which the peer began anew; for the next tunnel."""
        return self._transports.unresumed

    @property
    def news(self) -> trio.Event:
        """The next time the tunnel gets another transport, or has none any more, or ends."""
        return self._transports.news

    def fits(self, theirs: Resume) -> bool:
        """Whether a transport on which the peer said this is the next one for this tunnel."""
        return self._transports.fits(theirs)

    async def carry(self, carriage: Carriage) -> bool:
        """Goes on over another transport; the one before, if it still lives, is given up.

        Returns when the ends have found each other, or will not: whether the tunnel has a transport then.
        The responder brings one whose RESUME `fits`.
        """
        await self._transports.carry(carriage)
        return self.suspended_since is None and not self._finished.is_set()

    # For the driver of the transport --------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the last flush has gone out."""
        if self.connection.wants_to_send:
            return False
        return self.connection.ended or (self._leaving and not self.connection.streams_open)

    def flush(self) -> None:
        """Call after every verb on the connection: handles its events, wakes writer and timer."""
        if self._flushing:
            return  # asked by what an event has set off: the call below goes on
        connection = self.connection
        self._flushing = True
        try:
            self._handle_events()
            driver = self._transports.driver
            if driver and (connection.wants_to_send or (self._leaving and not connection.streams_open)):
                driver.wake()
                self._handle_events()  # what has left may have made room
        finally:
            self._flushing = False
        self._alarm.look()

    def _handle_events(self) -> None:
        while events := self.connection.events():
            for event in events:
                _HANDLERS[type(event)](self, event)

    def made_room(self) -> None:
        self._room.unpark_all()
        self.flush()

    def answered(self, theirs: Resume) -> None:
        self._transports.answered(theirs)

    def broke(self, error: Exception) -> None:
        if isinstance(error, PeerError):
            self.lose(error.reason, str(error), cause=error)
            return
        self._cause = error
        lost = PeerError("transport", f"{error.__cause__ or error}")
        self.connection.transport_lost(lost, trio.current_time())
        self.flush()
        if (driver := self._transports.driver) is not None:
            driver.scope.cancel()

    def _timed_out(self) -> None:
        self.connection.handle_timeout(trio.current_time())
        self.flush()
        if self.suspended_since is not None and (driver := self._transports.driver) is not None:
            driver.scope.cancel()

    # For the streams ------------------------------------------------------------------------------

    def adopt(self, stream: TunnelStream) -> None:
        self._streams.adopt(stream)

    def forget(self, stream: StreamId) -> None:
        self._streams.forget(stream)

    # Events of the connection ---------------------------------------------------------------------

    def _of_stream(self, event: StreamEvent) -> None:
        self._streams.handle(event)

    def _on_control(self, event: ControlReceived) -> None:
        try:
            self._control_in.send_nowait(event.data)
        except trio.WouldBlock:
            self.lose("control-stuck", f"{CONTROL_WAITING} control messages wait and nobody reads them")
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

    def _on_go_away(self, event: GoAwayReceived) -> None:
        self.back = event.back

    def _on_suspended(self, event: Suspended) -> None:
        if not self._transports.known:
            self.lose(event.error.reason, str(event.error), cause=self._cause)
        self._transports.change()

    def _on_ended(self, event: ConnectionEnded) -> None:
        if event.error is None:
            self._loops.cancel()
        else:
            self.lose(event.error.reason, str(event.error), cause=self._cause)

    # Ending ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.lost:
            raise TunnelLost(self.lost.reason, str(self.lost)) from self.lost
        if self._finished.is_set():
            raise TunnelLost("closed", f"the tunnel to {self.peer} is closed")

    def lose(self, reason: str, message: str, *, cause: Exception | None = None) -> None:
        """The first reason counts. The writer gets a moment for last words to a peer that can hear them."""
        if self.lost is not None:
            return
        self.lost = TunnelLost(reason, f"the tunnel to {self.peer} was lost: {message}")
        self.lost.__cause__ = cause
        if reason in _UNHEARD or self.suspended_since is not None:
            self._loops.cancel()
        else:
            if not self.connection.ended:
                self.connection.go_away(EndCode.INTERNAL, message)
            if (driver := self._transports.driver) is not None:
                driver.last_words()
        self._break_all()

    def _break_all(self) -> None:
        self._streams.break_all(str(self.lost or f"the tunnel to {self.peer} is closed"))
        for answer in self._pings.values():
            answer.set()
        self._room.unpark_all()


_HANDLERS: dict[type, Callable[[Tunnel, Any], None]] = {
    **dict.fromkeys((Readable, Writable, StreamOpened, StreamAccepted, StreamReset), Tunnel._of_stream),
    ControlReceived: Tunnel._on_control,
    DatagramsReceived: Tunnel._on_datagrams,
    Pong: Tunnel._on_pong,
    GoAwayReceived: Tunnel._on_go_away,
    Suspended: Tunnel._on_suspended,
    ConnectionEnded: Tunnel._on_ended,
}
