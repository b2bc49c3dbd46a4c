"""What waits to be sent on one connection, and the order it goes in.

PONGs, PINGs and receipts first, then control frames in the order they were queued, then CREDITs, then the
streams and datagram runs whose turn the scheduler says it is. A stream's bytes stay in its SendBuffer until
its turn. Every queue here has a bound; the streams' is their window. They are lists: an empty deque costs 760
bytes, and thousands of idle connections have nothing in any of them.
"""

from collections import Counter
from typing import Final

from raven.mux import frames
from raven.mux.codes import Priority, ResetCode
from raven.mux.events import StreamId
from raven.mux.flow import WAITING_MAX, Chunk
from raven.mux.resume import Receipts
from raven.mux.scheduler import DATAGRAMS, QUANTUM, Scheduler
from raven.mux.stream import Stream

PONGS_MAX: Final = 16  # answers to as many PINGs as an honest peer can have under way
SEND_ROOM: Final = WAITING_MAX // 2  # bytes that must fit before a blocked writer is woken for it
ANSWER_MAX: Final = 2048  # bytes; a stream that had no more than this to say is somebody who types
TAIL_MIN: Final = 2048  # bytes; less room than this at the end of a flush is not worth a frame


class Outbox:
    """The sending side of a connection."""

    def __init__(
        self, receipts: Receipts, *, control_max: int, datagrams_max: int, counters: Counter[str]
    ) -> None:
        self._control_max = control_max
        self._datagrams_max = datagrams_max
        self._counters = counters
        self._receipts = receipts
        self._pongs: list[int] = []
        self._pings: list[tuple[int, int]] = []  # token, pause
        self._ack = False
        self._control: list[bytes] = []  # whole frames
        self._control_size = 0
        self._credits: dict[StreamId, Stream] = {}
        self._datagrams: list[bytes] = []  # whole frames
        self._datagrams_size = 0
        self._scheduler = Scheduler()
        self._waiting: dict[StreamId, Stream] = {}  # the streams in the scheduler
        self.answered = False  # somebody who types had something to say; for the owner to clear
        self.writable: list[StreamId] = []  # streams that can take bytes again because some have left

    def __bool__(self) -> bool:
        return bool(self._waiting or self._datagrams or self.urgent)

    @property
    def urgent(self) -> bool:
        """Whether anything waits that goes before all streams and datagrams."""
        return bool(self._control or self._credits or self._pongs or self._pings or self._ack)

    @property
    def control_size(self) -> int:
        """Bytes of control frames that wait."""
        return self._control_size

    def has_at_most(self, limit: int) -> bool:
        """Whether somebody waits for what is here, and all of it is at most `limit` bytes.

        Receipts and CREDITs do not count: nobody is in a hurry for them, and together they cost one record.
        """
        if not (self._waiting or self._control):
            return False
        size = self._control_size + self._datagrams_size
        for stream in self._waiting.values():
            size += stream.send.waiting
            if size > limit:
                return False
        return size <= limit

    def control(self, frame: bytes) -> bool:
        """Queues a frame ahead of all streams; False when that makes more than the bound."""
        self._control.append(frame)
        self._control_size += len(frame)
        return self._control_size <= self._control_max

    def pong(self, token: int) -> None:
        """Queues the answer to a PING; of too many the oldest goes unanswered."""
        if len(self._pongs) == PONGS_MAX:
            self._pongs.pop(0)
            self._counters["pong-dropped"] += 1
        self._pongs.append(token)

    def ping(self, token: int, pause: int) -> None:
        """Queues a PING."""
        self._pings.append((token, pause))

    def ack(self) -> None:
        """An ACK is due; it says what has been received at the moment it is written."""
        self._ack = True

    def credit(self, stream: Stream) -> None:
        """A CREDIT is due; its numbers are those of the moment it is written."""
        self._credits[stream.id] = stream

    def uncredit(self, stream: Stream) -> None:
        """The peer sends no more on this stream: no CREDIT is due."""
        self._credits.pop(stream.id, None)

    def datagrams(self, frame: bytes) -> bool:
        """Queues a run; False when it is dropped because too many wait."""
        if self._datagrams_size + len(frame) > self._datagrams_max:
            self._counters["datagram-queue-full"] += 1
            return False
        self._datagrams.append(frame)
        self._datagrams_size += len(frame)
        self._scheduler.wake(DATAGRAMS, Priority.BULK)
        return True

    def wake(self, stream: Stream) -> None:
        """The stream has bytes or its end to send."""
        self._waiting[stream.id] = stream
        self._scheduler.wake(stream.id, stream.priority)

    def forget(self, stream: Stream) -> None:
        """The stream sends no more, not even what waits."""
        if self._waiting.pop(stream.id, None) is not None:
            self._scheduler.forget(stream.id)
        self._credits.pop(stream.id, None)

    def clear(self) -> None:
        """Drops everything."""
        self._pongs.clear()
        self._pings.clear()
        self._ack = False
        self._control.clear()
        self._control_size = 0
        self._credits.clear()
        self._datagrams.clear()
        self._datagrams_size = 0
        self._scheduler = Scheduler()
        self._waiting.clear()

    def transport_lost(self) -> None:
        """Datagrams that waited for a transport that is gone are too old for the next."""
        self._datagrams.clear()
        self._datagrams_size = 0
        self._scheduler.forget(DATAGRAMS)

    def drain(self, limit: int, ended: list[Stream], *, streams: bool = True) -> bytes:
        """The next frames, about `limit` bytes. Streams whose last frame is among them go to `ended`.

        Without `streams` only what is urgent.
        """
        parts: list[Chunk] = []
        if self._pongs or self._pings or self._ack:
            self._receipt_frames(parts)
        room, whole = limit, 0
        while whole < len(self._control) and room > 0:
            frame = self._control[whole]
            whole += 1
            room -= len(frame)
            parts.append(frame)
        del self._control[:whole]
        self._control_size -= limit - room
        for stream in self._credits.values():
            consumed, window = stream.receive.credit()
            parts.append(frames.encode_credit(stream.id, consumed=consumed, window=window))
        self._credits.clear()
        # A large flush is cheaper in large pieces, and nobody waits for a small one: see `transport_driver`.
        quantum = max(QUANTUM, limit // 4)
        # While control frames wait no stream may go: its ACCEPT could be among them.
        while streams and self._scheduler and not self._control and (room >= TAIL_MIN or not parts):
            room -= self._turn(parts, max(room, TAIL_MIN), quantum, ended)
        return b"".join(parts)

    def _receipt_frames(self, parts: list[Chunk]) -> None:
        """PONGs, PINGs, or else an ACK: each says how much has been received."""
        received = self._receipts.tell()
        parts += [frames.encode_pong(token, received=received) for token in self._pongs]
        parts += [frames.encode_ping(token, received=received, pause=pause) for token, pause in self._pings]
        if not parts:
            parts.append(frames.encode_ack(received))
        self._pongs.clear()
        self._pings.clear()
        self._ack = False

    def _turn(self, parts: list[Chunk], room: int, quantum: int, ended: list[Stream]) -> int:
        """One turn of whoever the scheduler names; the bytes it took."""
        stream_id, alone = self._scheduler.next()
        if stream_id == DATAGRAMS:
            frame = self._datagrams.pop(0)
            self._datagrams_size -= len(frame)
            parts.append(frame)
            self._scheduler.sent(len(frame), dry=not self._datagrams)
            return len(frame)
        stream = self._waiting[stream_id]
        send = stream.send
        # A stream that waits alone sends its quanta in one frame: nobody is held up by that.
        size = min(send.waiting, room - frames.HEADER_LEN, frames.DATA_MAX if alone else quantum)
        if size:
            parts.append(frames.data_header(stream_id, size))
            send.send(size, parts)
            if stream.blocked and send.room() >= SEND_ROOM:
                stream.blocked = False
                self.writable.append(stream_id)
        dry = not send.waiting
        run = self._scheduler.sent(size, dry=dry)
        if dry:
            self.answered = self.answered or 0 < run <= ANSWER_MAX
            del self._waiting[stream_id]
            if stream.fin_queued:
                self._end_of_stream(stream, parts, ended)
        return size + frames.HEADER_LEN

    def _end_of_stream(self, stream: Stream, parts: list[Chunk], ended: list[Stream]) -> None:
        if not stream.fin_sent:
            parts.append(frames.encode(frames.FrameType.FIN, stream.id))
            stream.fin_sent = True
        if stream.closed and not stream.fin_received:
            parts.append(frames.encode_reset(stream.id, code=ResetCode.CLOSED, message=""))
            ended.append(stream)
        elif stream.over:
            ended.append(stream)
