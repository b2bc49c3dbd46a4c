"""The multiplexer: one ordered byte stream below, many flow-controlled streams above, and no I/O.

A driver feeds `receive_data`, drains `events` and `data_to_send`, and calls `handle_timeout` when
`next_timeout` has come. `frames` is the wire document and `flow` the window arithmetic; here are the
streams' transitions and what the connection as a whole may hold. What the peer sends never raises: it ends
the connection with one PeerError in ConnectionEnded, or is counted and ignored. LocalError says that the
driver broke the contract.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from raven.errors import LocalError, PeerError
from raven.mux import frames
from raven.mux.codes import EndCode, Priority, RefusalCode, ResetCode
from raven.mux.events import (
    ConnectionEnded,
    ControlReceived,
    DatagramsReceived,
    Event,
    GoAwayReceived,
    Pong,
    Readable,
    StreamAccepted,
    StreamId,
    StreamOpened,
    StreamReset,
    Writable,
)
from raven.mux.flow import WindowBudget
from raven.mux.frames import FrameType
from raven.mux.liveness import Liveness, Verdict
from raven.mux.outbox import Outbox
from raven.mux.stream import Stream, StreamUsage
from raven.mux.table import StreamTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may hold; bytes unless said otherwise. Lengths of frames are in `frames`."""

    streams: int = 1024  # opened by either side; kubectl and Prometheus of one node stay far below
    window_start: int = 256 * 1024  # 20 Mb/s at 100 ms
    window_max: int = 4 * 1024 * 1024  # 320 Mb/s at 100 ms; the sender's copy has the same size
    windows_total: int = 32 * 1024 * 1024  # of all streams: four to eight that run at full speed
    window_least: int = 16 * 1024  # of a new stream when the total is spent; 1024 of them are 16 MiB more
    control_queue: int = 4 * 1024 * 1024  # frames to a peer that reads nothing; four of the longest messages
    datagram_queue: int = 256 * 1024  # 200 ms at 10 Mb/s: more delay than a packet is worth


class Connection:
    """One end of a connection. `initiator` is whoever dialled."""

    def __init__(self, *, initiator: bool, now: float, limits: Limits = Limits()) -> None:
        self.counters: Counter[str] = Counter()  # what was ignored or dropped, by reason
        self.going_away = False  # a GOAWAY went or came: no new streams either way
        self.ended = False
        self._said_go_away = False
        self._limits = limits
        self._streams = StreamTable(
            initiator=initiator,
            budget=WindowBudget(limits.windows_total, least=limits.window_least),
            window_start=limits.window_start,
            window_max=limits.window_max,
        )
        self._decoder = frames.FrameDecoder()
        self._outbox = Outbox(
            control_max=limits.control_queue, datagrams_max=limits.datagram_queue, counters=self.counters
        )
        self._liveness = Liveness(initiator=initiator, now=now)
        self._events: list[Event] = []
        self._message = bytearray()  # pieces of the control message that is coming in
        self._handlers: dict[int, Callable[[StreamId, memoryview, float], None]] = {
            FrameType.OPEN: self._on_open,
            FrameType.ACCEPT: self._on_accept,
            FrameType.DATA: self._on_data,
            FrameType.CREDIT: self._on_credit,
            FrameType.FIN: self._on_fin,
            FrameType.RESET: self._on_reset,
            FrameType.DATAGRAMS: self._on_datagrams,
            FrameType.PING: self._on_ping,
            FrameType.PONG: self._on_pong,
            FrameType.GOAWAY: self._on_go_away,
            FrameType.CONTROL: self._on_control,
        }

    # From above: streams --------------------------------------------------------------------------

    def why_not_open(self) -> RefusalCode | None:
        """Why `open_stream` would not do now; None when it would."""
        if self.going_away or self.ended:
            return RefusalCode.GOING_AWAY
        if self._streams.ours >= self._limits.streams:
            return RefusalCode.BUSY
        return None

    def open_stream(self, header: bytes, *, priority: Priority) -> StreamId:
        """Asks the peer for a stream; StreamAccepted or StreamReset answers."""
        if len(header) > frames.OPEN_HEADER_MAX:
            raise LocalError(f"an OPEN header has at most {frames.OPEN_HEADER_MAX} bytes, not {len(header)}")
        if (refusal := self.why_not_open()) is not None:
            raise LocalError(f"no stream can be opened: {refusal.name}")
        stream = self._streams.add_ours(priority)
        self._liveness.active = True
        window = stream.receive.window
        self._queue(frames.encode_open(stream.id, priority=priority, window=window, header=header))
        if self._streams.used_up:
            self.go_away(EndCode.SHUTDOWN, "stream numbers are used up")
        return stream.id

    def accept(self, stream_id: StreamId, header: bytes = b"") -> None:
        """Takes the stream that StreamOpened named."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ours or stream.answered:
            raise LocalError(f"stream {stream_id} does not wait for an answer")
        if len(header) > frames.OPEN_HEADER_MAX:
            raise LocalError(
                f"an ACCEPT header has at most {frames.OPEN_HEADER_MAX} bytes, not {len(header)}"
            )
        stream.answered = True
        self._queue(frames.encode_accept(stream_id, window=stream.receive.window, header=header))

    def send_data(self, stream_id: StreamId, data: bytes | bytearray | memoryview) -> int:
        """Takes as much of the front of `data` as the peer's window allows; Writable follows if not all.

        `bytes` are kept uncopied. The stream must be accepted and not ended.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.fin_queued or stream.reset:
            raise LocalError(f"stream {stream_id} takes no data")
        taken = stream.send.take(data, self._limits.window_max)
        if taken:
            self._outbox.wake(stream)
        stream.blocked = taken < len(data)
        return taken

    def writable(self, stream_id: StreamId) -> bool:
        """Whether `send_data` would take a byte now; if not, Writable follows."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.fin_queued or stream.reset:
            raise LocalError(f"stream {stream_id} takes no data")
        stream.blocked = not stream.send.room(self._limits.window_max)
        return not stream.blocked

    def send_eof(self, stream_id: StreamId) -> None:
        """FIN after what was written. Again, or on a stream that is over: nothing."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.fin_queued or stream.reset:
            return
        if not stream.answered:
            raise LocalError(f"stream {stream_id} is not accepted")
        stream.fin_queued = True
        self._outbox.wake(stream)

    def read(self, stream_id: StreamId, most: int, now: float) -> bytes | bytearray | None:
        """The next bytes, at most `most`; b"" at the peer's FIN; None when nothing is there.

        What is returned counts as consumed: the peer may send as much again.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.closed:
            return None
        receive = stream.receive
        if receive.held:
            data = receive.take(most)
            if stream.reset:
                self._remove_if_over(stream)
            elif not (stream.fin_received or self.ended) and receive.credit_due(
                now, self._liveness.rtt or 0.0
            ):
                self._outbox.credit(stream)
            return data
        stream.readable = False
        if not stream.fin_received:
            return None
        stream.eof_read = True
        self._remove_if_over(stream)
        return b""

    def close(self, stream_id: StreamId) -> None:
        """The driver is done. What was written still goes, then FIN, then RESET (CLOSED) if need be."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.reset or self.ended:
            self._remove(stream)
        elif not stream.answered:
            self.reset(stream_id, ResetCode.CANCELLED, "")
        else:
            stream.closed = True
            stream.receive.drop()
            self._outbox.uncredit(stream)
            if stream.over:
                self._remove(stream)
            else:
                stream.fin_queued = True
                self._outbox.wake(stream)

    def reset(self, stream_id: StreamId, code: int, message: str) -> None:
        """Refuses, takes back or breaks off a stream; what waits is dropped. On one that is over: nothing."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not stream.reset and not (stream.fin_sent and stream.fin_received):
            self._queue(frames.encode_reset(stream_id, code=code, message=message))
        self._remove(stream)

    def usage(self, stream_id: StreamId) -> StreamUsage | None:
        """What the stream carried and where its bytes wait; None once it is over."""
        stream = self._streams.get(stream_id)
        return stream.usage if stream is not None else None

    @property
    def streams_open(self) -> int:
        """Streams that are not over, as far as this end knows."""
        return len(self._streams)

    # From above: the connection -------------------------------------------------------------------

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
        if self.ended:
            return False
        return self._outbox.datagrams(frames.encode_datagrams(flow, segment_size=segment_size, data=data))

    def ping(self, now: float) -> int:
        """Sends a PING; the token that its Pong will carry."""
        return self._ping(now)

    def go_away(self, code: EndCode, message: str) -> None:
        """No new streams from now on. Any other code than SHUTDOWN ends the connection: flush, then close."""
        if self.ended:
            return
        self.going_away = self._said_go_away = True
        if code is not EndCode.SHUTDOWN:
            self.ended = True
            self._outbox.clear()
        self._outbox.control(frames.encode_go_away(code, message))

    # Clock ----------------------------------------------------------------------------------------

    @property
    def rtt(self) -> float | None:
        """Smoothed round trip in seconds, None before the first answer."""
        return self._liveness.rtt

    @property
    def last_heard(self) -> float:
        return self._liveness.last_heard

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`; it may move either way with every call."""
        return None if self.ended else self._liveness.next_timeout()

    def handle_timeout(self, now: float) -> None:
        """Pings a peer that is silent; ends the connection with "silent" when it stays so."""
        if self.ended:
            return
        verdict = self._liveness.check(now)
        if verdict is Verdict.PING:
            self._ping(now)
        elif verdict is Verdict.DEAD:
            silence = now - self._liveness.last_heard
            self._end(PeerError("silent", f"the other end has been silent for {silence:.1f} s"))

    # From below -----------------------------------------------------------------------------------

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Takes what the transport delivered; `data` is borrowed until the call returns."""
        if self.ended:
            return
        self._liveness.heard(len(data), now)
        try:
            for frame_type, stream_id, payload in self._decoder.feed_untrusted(data):
                handler = self._handlers.get(frame_type)
                if handler is None:
                    raise PeerError("unknown-frame", f"frame type {frame_type} is reserved")
                handler(StreamId(stream_id), payload, now)
                if self.ended:
                    return
        except PeerError as error:
            self._end(error)
            return
        if self._liveness.active and self._liveness.wants_sample(now):
            self._ping(now)

    def receive_eof(self) -> None:
        """The transport has ended: well if a GOAWAY had been said and no stream was left."""
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
        return bool(self._outbox)

    def data_to_send(self, limit: int) -> bytes:
        """The next frames, about `limit` bytes of them; b"" when there is nothing to send."""
        over: list[Stream] = []
        data = self._outbox.drain(limit, over)
        for stream in over:
            self._remove(stream)
        return data

    # Frames of streams ----------------------------------------------------------------------------

    def _find(self, stream_id: StreamId, frame_type: FrameType) -> Stream | None:
        """The stream a frame is for; None when it is over. PeerError when it never was."""
        stream = self._streams.get_untrusted(stream_id, frame_type.name)
        if stream is None or stream.reset:
            self.counters["late-frame"] += 1
            return None
        if not stream.answered and frame_type not in (FrameType.ACCEPT, FrameType.RESET):
            text = f"{frame_type.name} frame for stream {stream_id} before its ACCEPT"
            raise PeerError("before-accept", text)
        return stream

    def _on_open(self, stream_id: StreamId, payload: memoryview, now: float) -> None:
        self._streams.take_number_untrusted(stream_id)
        number, window, header = frames.decode_open_untrusted(payload)
        if self._said_go_away:
            code, text = RefusalCode.GOING_AWAY, "this end is shutting down"
            self._queue(frames.encode_reset(stream_id, code=code, message=text))
            return
        if self._streams.theirs >= self._limits.streams:
            code, text = RefusalCode.BUSY, f"{self._streams.theirs} streams are open already"
            self.counters["too-many-streams"] += 1
            self._queue(frames.encode_reset(stream_id, code=code, message=text))
            return
        priority = Priority.INTERACTIVE if number == Priority.INTERACTIVE else Priority.BULK
        stream = self._streams.add_theirs(stream_id, priority)
        self._liveness.active = True
        stream.send.limit = window
        self._events.append(StreamOpened(stream_id, header, priority))

    def _on_accept(self, stream_id: StreamId, payload: memoryview, now: float) -> None:
        stream = self._find(stream_id, FrameType.ACCEPT)
        if stream is None:
            return
        if not stream.ours or stream.answered:
            raise PeerError("unasked-accept", f"ACCEPT for stream {stream_id}, which waits for none")
        stream.answered = True
        stream.send.limit, header = frames.decode_accept_untrusted(payload)
        self._events.append(StreamAccepted(stream_id, header))

    def _on_data(self, stream_id: StreamId, payload: memoryview, now: float) -> None:
        stream = self._find(stream_id, FrameType.DATA)
        if stream is None:
            return
        if stream.fin_received:
            raise PeerError("after-fin", f"DATA frame for stream {stream_id} after its FIN")
        if stream.closed:
            self.counters["late-frame"] += 1
            return
        stream.receive.put_untrusted(payload)
        if not stream.readable:
            stream.readable = True
            self._events.append(Readable(stream_id))

    def _on_credit(self, stream_id: StreamId, payload: memoryview, now: float) -> None:
        stream = self._find(stream_id, FrameType.CREDIT)
        if stream is None:
            return
        consumed, window = frames.decode_credit_untrusted(payload)
        stream.send.credit_untrusted(consumed, window)
        if stream.blocked and stream.send.room(self._limits.window_max):
            stream.blocked = False
            self._events.append(Writable(stream_id))

    def _on_fin(self, stream_id: StreamId, payload: memoryview, now: float) -> None:
        stream = self._find(stream_id, FrameType.FIN)
        if stream is None:
            return
        if stream.fin_received:
            raise PeerError("after-fin", f"second FIN for stream {stream_id}")
        stream.fin_received = True
        self._outbox.uncredit(stream)
        if stream.closed:
            self._remove_if_over(stream)
        elif not stream.readable:
            stream.readable = True
            self._events.append(Readable(stream_id))

    def _on_reset(self, stream_id: StreamId, payload: memoryview, now: float) -> None:
        stream = self._find(stream_id, FrameType.RESET)
        if stream is None:
            return
        code, message = frames.decode_code_untrusted(payload)
        stream.reset = True
        stream.blocked = False
        self._outbox.forget(stream)
        if stream.closed:
            self._remove(stream)
            return
        self._events.append(StreamReset(stream_id, code, message))
        self._remove_if_over(stream)

    # Frames of the connection ---------------------------------------------------------------------

    def _on_datagrams(self, flow: StreamId, payload: memoryview, now: float) -> None:
        segment_size, data = frames.decode_datagrams_untrusted(payload)
        self._events.append(DatagramsReceived(flow, segment_size, data))

    def _on_ping(self, _: StreamId, payload: memoryview, now: float) -> None:
        self._outbox.pong(frames.decode_token_untrusted(payload))

    def _on_pong(self, _: StreamId, payload: memoryview, now: float) -> None:
        token = frames.decode_token_untrusted(payload)
        rtt = self._liveness.pong_received(token, now)
        if rtt is None:
            self.counters["unasked-pong"] += 1
        else:
            self._events.append(Pong(token, rtt))

    def _on_go_away(self, _: StreamId, payload: memoryview, now: float) -> None:
        number, message = frames.decode_code_untrusted(payload)
        code = frames.end_code(number)
        self.going_away = True
        if code is EndCode.SHUTDOWN:
            self._events.append(GoAwayReceived(code, message))
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

    # Common ---------------------------------------------------------------------------------------

    def _remove_if_over(self, stream: Stream) -> None:
        if stream.over:
            self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        self._streams.remove(stream)
        self._outbox.forget(stream)
        self._liveness.active = bool(self._streams)

    def _queue(self, frame: bytes) -> None:
        """A frame that goes before all streams. A peer that makes us queue without end is sent away."""
        if not self.ended and not self._outbox.control(frame):
            size = self._outbox.control_size
            self._end(PeerError("control-queue", f"{size} bytes of answers wait for the other end"))

    def _ping(self, now: float) -> int:
        token = self._liveness.ping_sent(now)
        self._queue(frames.encode_ping(token))
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
