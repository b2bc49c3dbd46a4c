"""The multiplexer: one ordered byte stream below, many flow-controlled streams above, and no I/O.

A driver feeds `receive_data`, drains `events` and `data_to_send`, and calls `handle_timeout` when
`next_timeout` has come. `frames` is the wire document and `streams` has the streams' transitions; here are
the clock, the connection's own frames, and its transports: where `Limits.grace` allows, a connection that
loses one is suspended and goes on with the next. What the peer sends never raises: it ends the connection
with one PeerError in ConnectionEnded, or is counted and ignored. LocalError says that the driver broke the
contract.
"""

from collections.abc import Callable
from typing import Final

from raven.errors import LocalError, PeerError
from raven.mux import frames
from raven.mux.codes import EndCode, Priority
from raven.mux.events import (
    ConnectionEnded,
    ControlReceived,
    DatagramsReceived,
    Event,
    GoAwayReceived,
    Pong,
    StreamId,
    Suspended,
    Writable,
)
from raven.mux.frames import FrameType
from raven.mux.keepalive import Keepalive
from raven.mux.limits import Limits
from raven.mux.liveness import Liveness, Verdict
from raven.mux.resume import REPLAY_MAX, Receipts, Replay
from raven.mux.stream import Stream
from raven.mux.streams import Streams

__all__ = ["Connection", "Limits"]

LIVELY_BYTES: Final = 4 * 1024 * 1024  # both ways; 10 ms at full speed, and for ever on an idle connection


class Connection(Streams):
    """One end of a connection. `initiator` is whoever dialled; it begins with a transport."""

    def __init__(
        self,
        *,
        initiator: bool,
        now: float,
        limits: Limits | None = None,
        keepalive: Keepalive | None = None,
    ) -> None:
        limits = limits or Limits()
        self._receipts = Receipts(now)
        super().__init__(
            initiator=initiator,
            liveness=Liveness(initiator=initiator, now=now, keepalive=keepalive),
            receipts=self._receipts,
            limits=limits,
        )
        self._replay = Replay(keep=limits.grace > 0)
        self._suspended: tuple[float, PeerError] | None = None  # since when, and why
        self._decoder = frames.FrameDecoder()
        self._lively_until = 0  # bytes sent and received
        self._message = bytearray()  # pieces of the control message that is coming in

    # From above -----------------------------------------------------------------------------------

    def open_stream(self, header: bytes, *, priority: Priority) -> StreamId:
        """Asks the peer for a stream; StreamAccepted or StreamReset answers."""
        stream = super().open_stream(header, priority=priority)
        if self._streams.used_up:
            self.go_away(EndCode.SHUTDOWN, "stream numbers are used up")
        return stream

    def send_control(self, message: bytes) -> bool:
        """Queues a control message; False, and nothing queued, when it must wait for the queue to drain."""
        if len(message) > frames.CONTROL_MAX:
            raise LocalError(f"a control message has at most {frames.CONTROL_MAX} bytes, not {len(message)}")
        if self.ended or self._outbox.control_size >= self._limits.control_queue // 4:
            return False
        for frame in frames.encode_control(message):
            self._queue(frame)
        return True

    def send_datagrams(self, flow: int, *, segment_size: int, data: bytes | memoryview) -> bool:
        """Queues a run of datagrams of `segment_size` bytes, the last may be shorter; False when dropped."""
        if not 0 < len(data) <= frames.DATAGRAMS_MAX or not 0 < segment_size <= 0xFFFF:
            raise LocalError(
                f"a run has 1 to {frames.DATAGRAMS_MAX} bytes, not {len(data)} by {segment_size}"
            )
        if self.ended or self._suspended is not None:
            self.counters["datagrams-no-transport"] += 1
            return False
        return self._outbox.datagrams(frames.encode_datagrams(flow, segment_size=segment_size, data=data))

    def ping(self, now: float) -> int:
        """Sends a PING; the token that its Pong will carry."""
        return self._ping(now)

    def go_away(self, code: EndCode, message: str, *, back: int = 0) -> None:
        """No new streams from now on; the peer may be back after `back` seconds, 0 says nothing about it.

        Any other code than SHUTDOWN ends the connection: flush, then close.
        """
        if self.ended:
            return
        self.going_away = self._said_go_away = True
        if code is not EndCode.SHUTDOWN:
            self.ended = True
            self._outbox.clear()
        self._outbox.control(frames.encode_go_away(code, message, back=back))

    # Transports -----------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """Bytes of the peer's sequence that have arrived, for our RESUME."""
        return self._receipts.received

    @property
    def suspended_since(self) -> float | None:
        """When the transport was lost; None while there is one."""
        return self._suspended[0] if self._suspended is not None else None

    def transport_lost(self, error: PeerError, now: float) -> None:
        """The transport broke, or gives way to another: Suspended or ConnectionEnded follows."""
        if self.ended or self._suspended is not None:
            return
        self._liveness.transport_lost()
        self._outbox.transport_lost()
        if self.going_away and not self._streams:
            self._end(None)
        elif self._limits.grace <= 0:
            self._end(error)
        else:
            self._suspended = (now, error)
            self._events.append(Suspended(error))

    def transport_came(self, received: int, now: float) -> None:
        """Both have said RESUME on a new transport; `received` is the peer's."""
        if self.ended:
            return
        assert self._suspended is not None
        self._suspended = None
        self._liveness.transport_came(now)
        try:
            self._replay.rewind_untrusted(received)
        except PeerError as error:
            self._end(error)
            return
        self._ping(now)

    # Clock ----------------------------------------------------------------------------------------

    @property
    def rtt(self) -> float | None:
        """Smoothed round trip in seconds, None before the first answer."""
        return self._liveness.rtt

    @property
    def last_heard(self) -> float:
        return self._liveness.last_heard

    @property
    def evidence_max(self) -> float:
        """Seconds for which this connection may be silent and well."""
        return self._liveness.evidence_max

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`; it may move either way with every call."""
        if self.ended:
            return None
        if self._suspended is not None:
            return self._suspended[0] + self._limits.grace
        return self._liveness.next_timeout()

    def handle_timeout(self, now: float) -> None:
        """Pings a peer that is silent, gives up a transport that is, and at last the connection."""
        if self.ended:
            return
        if self._suspended is not None:
            since, why = self._suspended
            if now >= since + self._limits.grace:
                text = f"{why}; it did not come back within {self._limits.grace:g} s"
                self._end(PeerError(why.reason, text))
            return
        verdict = self._liveness.check(now)
        if verdict is Verdict.PING:
            self._ping(now)
        elif verdict is Verdict.DEAD:
            silence = now - self._liveness.last_heard
            text = f"the other end has been silent for {silence:.1f} s"
            if silence < 1.0:
                text = "the other end is heard, but does not hear this one"
            self.transport_lost(PeerError("silent", text), now)

    # From below -----------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Takes what the transport delivered; `data` is borrowed until the call returns."""
        if self.ended or self._suspended is not None:
            return
        self._liveness.heard(len(data), now)
        if self._receipts.arrived(len(data), now):
            self._outbox.ack()
        try:
            for frame_type, stream_id, payload in self._decoder.feed_untrusted(data):
                handler = _HANDLERS.get(frame_type)
                if handler is None:
                    raise PeerError("resume-late", "RESUME frame that is not the first of its transport")
                handler(self, StreamId(stream_id), payload, now)
                if self.ended:
                    return
        except PeerError as error:
            self._end(error)
            return
        if self._liveness.active and self._liveness.wants_sample(now):
            self._ping(now)

    def receive_eof(self) -> None:
        """The peer has closed the transport on purpose: well if a GOAWAY was said and no stream is left."""
        if self.ended:
            return
        if self.going_away and not self._streams:
            self._end(None)
        else:
            self._end(PeerError("eof", "the other end closed the connection without notice"))

    # Drain ----------------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def wants_to_send(self) -> bool:
        if self._suspended is not None:
            return False
        if self._replay.has_more or self._outbox.urgent:
            return True
        return not self._replay.full and bool(self._outbox)

    @property
    def lively(self) -> bool:
        """Whether somebody types beside what else is carried: large pieces would hold up the answers."""
        return self._replay.sent + self._receipts.received < self._lively_until

    def has_at_most(self, limit: int) -> bool:
        """Whether somebody waits for what could be sent now, and all of it is about `limit` bytes at most."""
        return not self._replay.has_more and self._outbox.has_at_most(limit)

    def data_to_send(self, limit: int) -> bytes:
        """The next frames, about `limit` bytes of them; b"" when there is nothing to send. Has events."""
        if self._suspended is not None:
            return b""
        if self._replay.has_more:
            return self._replay.again(limit)
        over: list[Stream] = []
        data = self._outbox.drain(limit, over, streams=not self._replay.full)
        for stream in over:
            self._remove(stream)
        if self._outbox.answered:
            self._outbox.answered = False
            self._lively_until = self._replay.sent + self._receipts.received + LIVELY_BYTES
        if self._outbox.writable:
            self._events += map(Writable, self._outbox.writable)
            self._outbox.writable.clear()
        if data:
            self._replay.add(data)
            if self._replay.sent - self._replay.confirmed > REPLAY_MAX + self._limits.control_queue:
                self._end(PeerError("no-receipts", "the other end says nothing of what it has received"))
        return data

    # Frames of the connection ---------------------------------------------------------------------

    def _on_datagrams(self, flow: StreamId, payload: memoryview, now: float) -> None:
        segment_size, data = frames.decode_datagrams_untrusted(payload)
        self._events.append(DatagramsReceived(flow, segment_size, data))

    def _on_ping(self, _: StreamId, payload: memoryview, now: float) -> None:
        token, received, pause = frames.decode_ping_untrusted(payload)
        self._confirmed(received, now)
        self._liveness.paused(pause)
        self._outbox.pong(token)

    def _on_pong(self, _: StreamId, payload: memoryview, now: float) -> None:
        token, received = frames.decode_pong_untrusted(payload)
        self._confirmed(received, now)
        rtt = self._liveness.pong_received(token, now)
        if rtt is None:
            self.counters["unasked-pong"] += 1
        else:
            self._events.append(Pong(token, rtt))

    def _on_go_away(self, _: StreamId, payload: memoryview, now: float) -> None:
        number, back, message = frames.decode_go_away_untrusted(payload)
        code = frames.end_code(number)
        self.going_away = True
        if code is EndCode.SHUTDOWN:
            self._events.append(GoAwayReceived(code, message, back))
        else:
            self._end(
                PeerError("ended-by-peer", f"the other end gave up ({code.name}): {message}"), tell=False
            )

    def _on_control(self, _: StreamId, payload: memoryview, now: float) -> None:
        last, piece = frames.decode_control_untrusted(payload)
        if len(self._message) + len(piece) > frames.CONTROL_MAX:
            raise PeerError("control-too-long", f"control message of more than {frames.CONTROL_MAX} bytes")
        self._message += piece
        if last:
            self._events.append(ControlReceived(bytes(self._message)))
            self._message.clear()

    def _on_ack(self, _: StreamId, payload: memoryview, now: float) -> None:
        self._confirmed(frames.decode_ack_untrusted(payload), now)

    # Common ---------------------------------------------------------------------------------------

    def _confirmed(self, received: int, now: float) -> None:
        if self._replay.confirm_untrusted(received):
            self._liveness.receipt(received, now)

    def _queue(self, frame: bytes) -> None:
        """A frame that goes before all streams. A peer that makes us queue without end is sent away."""
        if not self.ended and not self._outbox.control(frame):
            size = self._outbox.control_size
            self._end(PeerError("control-queue", f"{size} bytes of answers wait for the other end"))

    def _ping(self, now: float) -> int:
        token = self._liveness.ping_sent(now, self._replay.sent)
        if not self.ended:
            self._outbox.ping(token, self._liveness.pause)
        return token

    def _end(self, error: PeerError | None, *, tell: bool = True) -> None:
        """The one way out. Received bytes stay readable; everything else is dropped."""
        if self.ended:
            return
        self.ended = True
        self._outbox.clear()
        if error is not None and tell:
            self._outbox.control(frames.encode_go_away(EndCode.PROTOCOL, f"{error.reason}: {error}"))
        self._events.append(ConnectionEnded(error))


_HANDLERS: dict[int, Callable[[Connection, StreamId, memoryview, float], None]] = {
    FrameType.OPEN: Connection._on_open,
    FrameType.ACCEPT: Connection._on_accept,
    FrameType.DATA: Connection._on_data,
    FrameType.CREDIT: Connection._on_credit,
    FrameType.FIN: Connection._on_fin,
    FrameType.RESET: Connection._on_reset,
    FrameType.DATAGRAMS: Connection._on_datagrams,
    FrameType.PING: Connection._on_ping,
    FrameType.PONG: Connection._on_pong,
    FrameType.ACK: Connection._on_ack,
    FrameType.GOAWAY: Connection._on_go_away,
    FrameType.CONTROL: Connection._on_control,
}
