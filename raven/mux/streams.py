"""The streams of a connection: the verbs of its driver and the frames of its peer, side by side.

All transitions of a stream live here; `stream` is the record they work on and `flow` the arithmetic. What
belongs to the connection as a whole, its clock, its transports and its end, is `connection`, which is built
on this.
"""

from abc import ABC, abstractmethod
from collections import Counter

from raven.errors import LocalError, PeerError
from raven.mux import frames
from raven.mux.codes import Priority, RefusalCode, ResetCode
from raven.mux.events import Event, Readable, StreamAccepted, StreamId, StreamOpened, StreamReset, Writable
from raven.mux.flow import WindowBudget
from raven.mux.frames import FrameType
from raven.mux.limits import Limits
from raven.mux.liveness import Liveness
from raven.mux.outbox import Outbox
from raven.mux.resume import Receipts
from raven.mux.stream import Stream, StreamUsage
from raven.mux.table import StreamTable


class Streams(ABC):
    """What a connection knows of its streams."""

    def __init__(self, *, initiator: bool, liveness: Liveness, receipts: Receipts, limits: Limits) -> None:
        self.counters: Counter[str] = Counter()  # what was ignored or dropped, by reason
        self.going_away = False  # a GOAWAY went or came: no new streams either way
        self.ended = False
        self._said_go_away = False
        self._limits = limits
        self._liveness = liveness
        self._streams = StreamTable(
            initiator=initiator,
            budget=WindowBudget(limits.windows_total, least=limits.window_least),
            window_start=limits.window_start,
            window_max=limits.window_max,
        )
        self._outbox = Outbox(
            receipts,
            control_max=limits.control_queue,
            datagrams_max=limits.datagram_queue,
            counters=self.counters,
        )
        self._events: list[Event] = []

    @abstractmethod
    def _queue(self, frame: bytes) -> None:
        """A frame that goes before all streams; ends the connection when too many wait."""

    # Verbs ----------------------------------------------------------------------------------------

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
        taken = stream.send.take(data)
        if taken:
            self._outbox.wake(stream)
        stream.blocked = taken < len(data)
        return taken

    def writable(self, stream_id: StreamId) -> bool:
        """Whether `send_data` would take a byte now; if not, Writable follows."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.fin_queued or stream.reset:
            raise LocalError(f"stream {stream_id} takes no data")
        stream.blocked = not stream.send.room()
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

    def held(self, stream_id: StreamId) -> int:
        """Bytes that `read` would give."""
        stream = self._streams.get(stream_id)
        return stream.receive.held if stream is not None else 0

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
        if stream.blocked and stream.send.room():
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

    def _remove_if_over(self, stream: Stream) -> None:
        if stream.over:
            self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        self._streams.remove(stream)
        self._outbox.forget(stream)
        self._liveness.active = bool(self._streams)
