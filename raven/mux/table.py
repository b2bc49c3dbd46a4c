"""The streams of a connection: their numbers, how many there may be, and what their windows add up to.

Numbers are given without gaps, so the next number of each side is all that is needed to tell a stream that is
over from one that never was.
"""

from collections.abc import Iterator
from typing import Final

from raven.errors import PeerError
from raven.mux.codes import Priority
from raven.mux.events import StreamId
from raven.mux.flow import ReceiveBuffer, WindowBudget
from raven.mux.stream import Stream

LAST_STREAM: Final = 0xFFFFFFFF


class StreamTable:
    """The streams that are not over, by number."""

    def __init__(self, *, initiator: bool, budget: WindowBudget, window_start: int, window_max: int) -> None:
        self.theirs = 0  # streams of the table that the peer opened
        self._next_ours = 1 if initiator else 2
        self._next_theirs = 2 if initiator else 1
        self._streams: dict[StreamId, Stream] = {}
        self._budget = budget
        self._window_start = window_start
        self._window_max = window_max

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    @property
    def ours(self) -> int:
        """Streams of the table that we opened."""
        return len(self._streams) - self.theirs

    @property
    def used_up(self) -> bool:
        """Whether there is no number left for a stream of ours."""
        return self._next_ours > LAST_STREAM

    def get(self, stream_id: StreamId) -> Stream | None:
        """The stream for a verb of the driver."""
        return self._streams.get(stream_id)

    def get_untrusted(self, stream_id: StreamId, frame: str) -> Stream | None:
        """The stream that a frame of the peer is for; None when it is over. PeerError when it never was."""
        stream = self._streams.get(stream_id)
        if stream is None:
            ours = stream_id % 2 == self._next_ours % 2
            if stream_id >= (self._next_ours if ours else self._next_theirs):
                raise PeerError(
                    "never-opened", f"{frame} frame for stream {stream_id}, which was never opened"
                )
        return stream

    def add_ours(self, priority: Priority) -> Stream:
        """A new stream of ours, with the next number."""
        stream_id = StreamId(self._next_ours)
        self._next_ours += 2
        return self._add(stream_id, priority, ours=True)

    def take_number_untrusted(self, stream_id: StreamId) -> None:
        """The peer has used a number for a stream; PeerError when it is not the next."""
        if stream_id != self._next_theirs:
            text = f"OPEN of stream {stream_id}, the next would be {self._next_theirs}"
            raise PeerError("open-out-of-order", text)
        self._next_theirs += 2

    def add_theirs(self, stream_id: StreamId, priority: Priority) -> Stream:
        """The stream for which the peer has just taken a number."""
        self.theirs += 1
        return self._add(stream_id, priority, ours=False)

    def remove(self, stream: Stream) -> None:
        """The stream is over; its window is free for others."""
        del self._streams[stream.id]
        self.theirs -= not stream.ours
        stream.receive.drop()

    def _add(self, stream_id: StreamId, priority: Priority, *, ours: bool) -> Stream:
        receive = ReceiveBuffer(self._budget, window=self._window_start, window_max=self._window_max)
        stream = self._streams[stream_id] = Stream(stream_id, ours, priority, receive)
        return stream
