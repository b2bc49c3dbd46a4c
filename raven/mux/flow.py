"""Flow control of one stream: what may be sent, what must be kept, what may arrive.

Offsets count the bytes of one direction from its beginning. At the sender

    consumed <= sent <= written <= limit     (limit: what the peer's CREDIT allows)

and only the bytes from `sent` to `written` are held: they wait for the scheduler. What has been sent is kept
for the whole connection, by `resume`. At the receiver

    consumed <= received <= limit

where bytes between `consumed` and `received` wait for the local reader. Only that reader moves the window,
so a stalled reader costs its own window and nothing else.
"""

from collections import deque
from typing import Final

from raven.errors import PeerError

SMALL: Final = 4096  # bytes; shorter pieces are copied together: a chunk costs about 100 bytes of its own
JOINED_MAX: Final = 16 * 1024  # bytes of small pieces in one chunk
PIN_MAX: Final = 1 << 20  # bytes; a slice of something longer is copied, or it would keep the whole alive
WAITING_MAX: Final = 1 << 20  # bytes taken and not yet sent: four of the longest flushes
# Seconds; below it the event loops, not the path, are what a window waits for. Larger windows are queues:
# with 5 ms a keystroke beside a download takes half as long again; with 1.5 ms eight streams are 8 % slower.
RTT_FLOOR: Final = 0.002

Chunk = bytes | bytearray | memoryview


class SendBuffer:
    """The sending half of a stream: takes bytes up to the peer's limit, holds them until they are sent."""

    __slots__ = ("_unsent", "consumed", "limit", "sent", "written")

    def __init__(self) -> None:
        self.consumed = 0  # by the reader behind the peer
        self.sent = 0
        self.written = 0
        self.limit = 0  # nothing before ACCEPT has told the window
        self._unsent: deque[Chunk] = deque()  # sent to written

    def take(self, data: bytes | bytearray | memoryview) -> int:
        """Keeps as much of the front of `data` as fits below the peer's limit and WAITING_MAX.

        Returns how many bytes that is. `bytes` are kept as they are, anything the caller may change is
        copied.
        """
        taken = min(len(data), self.room())
        if taken <= 0:
            return 0
        self.written += taken
        tail = self._unsent[-1] if self._unsent else None
        if taken < SMALL:
            piece = data if taken == len(data) else data[:taken]
            if type(tail) is bytearray and len(tail) + taken <= JOINED_MAX:
                tail += piece
            else:
                self._unsent.append(bytearray(piece))
        elif type(data) is bytes and taken == len(data):
            self._unsent.append(data)
        elif len(data) <= PIN_MAX and _is_immutable(data):
            self._unsent.append(memoryview(data)[:taken])
        else:
            self._unsent.append(bytes(memoryview(data)[:taken]))
        return taken

    def room(self) -> int:
        """Bytes `take` would take now."""
        return min(self.limit - self.written, WAITING_MAX - (self.written - self.sent))

    @property
    def waiting(self) -> int:
        """Bytes taken and not yet sent."""
        return self.written - self.sent

    def send(self, most: int, parts: list[Chunk]) -> None:
        """Appends the next `most` bytes (no more than `waiting`) to `parts`, uncopied; they are sent now."""
        self.sent += most
        while most:
            chunk = self._unsent[0]
            if len(chunk) <= most:
                self._unsent.popleft()
            else:
                if type(chunk) is bytes:
                    chunk = memoryview(chunk)
                # The slices of a bytearray are copies: it may still grow.
                chunk, self._unsent[0] = chunk[:most], chunk[most:]
            most -= len(chunk)
            parts.append(chunk)

    def credit_untrusted(self, consumed: int, window: int) -> None:
        """The peer's CREDIT. PeerError when the offsets go back or beyond."""
        if consumed > self.sent:
            raise PeerError("credit-beyond", f"CREDIT for {consumed} bytes of {self.sent} sent")
        if consumed < self.consumed or consumed + window < self.limit:
            raise PeerError(
                "credit-backwards", f"CREDIT {consumed}+{window} after {self.consumed}, {self.limit}"
            )
        self.limit = consumed + window
        self.consumed = consumed


def _is_immutable(data: bytes | bytearray | memoryview) -> bool:
    return type(data) is bytes or (type(data) is memoryview and type(data.obj) is bytes)


class WindowBudget:
    """What the windows of one connection's streams may add up to, so that its memory has a bound."""

    def __init__(self, total: int, *, least: int) -> None:
        self._left = total
        self._least = least

    def first_window(self, wanted: int) -> int:
        """A window for a new stream: `wanted` bytes while there is room, then the least."""
        window = min(wanted, max(self._least, self._left))
        self._left -= window
        return window

    def grow(self, extra: int) -> bool:
        """Whether a window may grow by `extra` bytes."""
        if extra > self._left:
            return False
        self._left -= extra
        return True

    def give_back(self, window: int) -> None:
        self._left += window


class ReceiveBuffer:
    """The receiving half of a stream: holds what has arrived, and says when the peer may send more."""

    __slots__ = (
        "_budget",
        "_chunks",
        "_credited",
        "_epoch_start",
        "_epoch_time",
        "_head",
        "_max",
        "consumed",
        "received",
        "window",
    )

    def __init__(self, budget: WindowBudget, *, window: int, window_max: int) -> None:
        self.received = 0
        self.consumed = 0
        self.window = budget.first_window(window)
        self._budget = budget
        self._max = window_max
        self._credited = 0  # the `consumed` of the last CREDIT
        self._epoch_start = 0  # offset and time since which one window's worth is measured
        self._epoch_time: float | None = None
        self._chunks: deque[bytes | bytearray] = deque()
        self._head = 0  # bytes of the first chunk already taken

    def put_untrusted(self, piece: memoryview) -> None:
        """Copies what arrived. PeerError when the peer sends more than its window."""
        size = len(piece)
        self.received += size
        if self.received > self._credited + self.window:
            limit = self._credited + self.window
            raise PeerError("window-exceeded", f"DATA up to byte {self.received}, allowed were {limit}")
        if size >= SMALL:
            self._chunks.append(bytes(piece))
            return
        tail = self._chunks[-1] if self._chunks else None
        if type(tail) is bytearray and len(tail) + size <= JOINED_MAX:
            tail += piece
        else:
            self._chunks.append(bytearray(piece))

    @property
    def held(self) -> int:
        """Bytes that wait for the local reader."""
        return self.received - self.consumed

    def take(self, most: int) -> bytes | bytearray:
        """The next bytes, at most `most`; the reader has them now, so they count as consumed."""
        chunks = self._chunks
        room = min(most, self.held)
        self.consumed += room
        if not self._head and len(chunks) == 1 and len(chunks[0]) == room:
            return chunks.popleft()  # the common case: the chunk is handed on uncopied
        parts: list[memoryview] = []
        while room:
            part = memoryview(chunks[0])[self._head : self._head + room]
            self._head += len(part)
            room -= len(part)
            parts.append(part)
            if self._head == len(chunks[0]):
                chunks.popleft()
                self._head = 0
        return b"".join(parts)

    def drop(self) -> None:
        """Forgets what waits and gives the window back to the budget. The last call."""
        self._chunks.clear()
        self.consumed = self.received
        self._budget.give_back(self.window)
        self.window = 0

    def credit_due(self, now: float, rtt: float) -> bool:
        """Whether a CREDIT is worth its bytes now: a quarter of the window has been consumed since the last.

        The window doubles when a whole one was consumed within two round trips: then it, not the reader and
        not the path, is what the sender waits for. It settles at two to four times bandwidth times delay.
        """
        if self.consumed - self._credited < self.window // 4:
            return False
        if self._epoch_time is None:
            self._epoch_start, self._epoch_time = self.consumed, now
        elif self.consumed - self._epoch_start >= self.window:
            quick = now - self._epoch_time < 2 * max(rtt, RTT_FLOOR)
            if quick and self.window * 2 <= self._max and self._budget.grow(self.window):
                self.window *= 2
            self._epoch_start, self._epoch_time = self.consumed, now
        return True

    def credit(self) -> tuple[int, int]:
        """consumed and window for the CREDIT frame that is being written."""
        self._credited = self.consumed
        return self.consumed, self.window
