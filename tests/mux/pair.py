"""Two connections joined by a path in virtual time: a delay, a rate, and no clock but ours.

The path is an ordered byte stream, as TCP gives it: it may cut what it carries anywhere, stall, or die, but
it does not lose or reorder.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from raven.mux.codes import Priority
from raven.mux.connection import Connection, Limits
from raven.mux.events import Event, StreamId, StreamOpened

FLUSH = 64 * 1024  # bytes a driver asks for at once

E = TypeVar("E")


@dataclass
class End:
    """One connection and what happened at it."""

    connection: Connection
    log: list[Event] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)  # everything it put on the wire
    on_event: Callable[[Event], None] | None = None

    def drain_events(self) -> None:
        for event in self.connection.events():
            self.log.append(event)
            if self.on_event:
                self.on_event(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.log if isinstance(event, kind)]


class Path:
    """One direction: bytes arrive `delay` seconds after they were sent; `dead` swallows them."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.dead = False
        self._flying: deque[tuple[float, bytes]] = deque()

    def send(self, data: bytes, now: float) -> None:
        if not self.dead:
            self._flying.append((now + self.delay, data))

    def arrived(self, now: float) -> list[bytes]:
        out = []
        while self._flying and self._flying[0][0] <= now:
            out.append(self._flying.popleft()[1])
        return out

    def next_arrival(self) -> float | None:
        return self._flying[0][0] if self._flying else None


class Pair:
    """`left` dialled. Nothing moves but by `run`, `settle` and `flush`."""

    def __init__(self, *, delay: float = 0.0, limits: Limits | None = None, now: float = 1000.0) -> None:
        self.now = now
        limits = limits or Limits()
        self.left = End(Connection(initiator=True, now=now, limits=limits))
        self.right = End(Connection(initiator=False, now=now, limits=limits))
        self.to_right, self.to_left = Path(delay), Path(delay)

    @property
    def ends(self) -> tuple[End, End]:
        return self.left, self.right

    def flush(self) -> bool:
        """Both ends put what they have on their path; whether that was anything."""
        moved = False
        for end, path in ((self.left, self.to_right), (self.right, self.to_left)):
            while data := end.connection.data_to_send(FLUSH):
                end.sent += data
                path.send(data, self.now)
                moved = True
        return moved

    def deliver(self) -> bool:
        """What has arrived by now is fed; whether that was anything."""
        moved = False
        for end, path in ((self.left, self.to_left), (self.right, self.to_right)):
            for data in path.arrived(self.now):
                end.connection.receive_data(data, self.now)
                moved = True
            end.drain_events()
        return moved

    def settle(self) -> None:
        """Moves what can move without time passing."""
        for _ in range(100_000):
            if not (self.flush() | self.deliver()):
                return
        raise AssertionError("the two ends never come to rest")

    def run(self, seconds: float) -> None:
        """Lets time pass, stopping at every arrival and timer."""
        end_time = self.now + seconds
        for _ in range(100_000):
            self.settle()
            stops = [end_time]
            for path in (self.to_left, self.to_right):
                if (at := path.next_arrival()) is not None:
                    stops.append(at)
            for end in self.ends:
                if (at := end.connection.next_timeout()) is not None:
                    stops.append(at)
            self.now = max(self.now, min(stops))
            if self.now >= end_time:
                self.now = end_time
                self.settle()
                return
            for end in self.ends:
                at = end.connection.next_timeout()
                if at is not None and at <= self.now:
                    end.connection.handle_timeout(self.now)
                    end.drain_events()
        raise AssertionError("too many steps")

    def open(self, *, priority: Priority = Priority.BULK, header: bytes = b"") -> StreamId:
        """A stream that left opened and right accepted."""
        stream = self.left.connection.open_stream(header, priority=priority)
        self.run(self.to_right.delay + 1e-9)
        assert any(event.stream == stream for event in self.right.of(StreamOpened))
        self.right.connection.accept(stream)
        self.run(self.to_left.delay + 1e-9)
        return stream

    def read_all(self, end: End, stream: StreamId) -> bytes:
        """Everything that can be read now."""
        out = bytearray()
        while data := end.connection.read(stream, 1 << 20, self.now):
            out += data
        return bytes(out)
