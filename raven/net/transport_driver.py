"""Carries one connection over one transport: says and hears RESUME, then waits, feeds and flushes.

`raven.net.tunnel` makes one for each transport of its connection and hears how it ended. Nothing here
understands a frame but the greeting, or knows what comes after this transport.
"""

from typing import Final, Protocol, runtime_checkable

import trio

from raven.errors import PeerError
from raven.mux.connection import Connection
from raven.mux.resume import RESUME_LEN, Greeting, Resume

READ_MAX: Final = 256 * 1024  # bytes; what one wake-up may bring
# Bytes; what one wake-up may bring or take while somebody types. Of less there are so many that a keystroke
# waits for their number, of more for their bytes: 0.8 ms with 64 KiB, 1.1 with 128, 1.8 with 256, 2.5 with 32
LIVELY_MAX: Final = 64 * 1024
GREETING_READ: Final = 16 * 1024  # bytes; a RESUME, and what a hasty initiator sends behind it
LAST_WORDS: Final = 1.0  # seconds for a GOAWAY and a close to leave
FLUSH_SMALL: Final = 4 * 1024  # bytes; less is worth a moment's wait for more
FLUSH_MIN: Final = 16 * 1024  # bytes; one TLS record
FLUSH_MAX: Final = 256 * 1024  # bytes; beyond it the cost per byte no longer falls
ALONE_MAX: Final = 8 * 1024  # bytes; what may go at once, without the writer, which gathers and is fair
ALONE_GAP: Final = 0.0001  # seconds; of what follows closer, the writer makes one record
FLUSH_SLOW: Final = 0.020  # seconds; a flush that takes longer holds up a keystroke
FLUSH_FAST: Final = 0.010  # seconds; one that takes less may be larger


@runtime_checkable
class BorrowingStream(Protocol):
    """A transport that lends what it received instead of copying it."""

    async def receive_borrowed(self, max_bytes: int) -> memoryview:
        """Like receive_some; the view is valid until the next call."""


@runtime_checkable
class PromptStream(Protocol):
    """A transport that can send without waiting."""

    def send_nowait(self, data: bytes) -> bool:
        """False when it is full: `send_all` of the same bytes must follow. BrokenResourceError."""


class Owner(Protocol):
    """What a driver needs of its tunnel."""

    bytes_in: int
    bytes_out: int

    @property
    def connection(self) -> Connection: ...

    @property
    def done(self) -> bool:
        """Whether the last flush has gone out."""

    def flush(self) -> None:
        """Call after every verb on the connection."""

    def made_room(self) -> None:
        """Something has left the connection's queues."""

    def answered(self, theirs: Resume) -> None:
        """The peer's RESUME after our first; PeerError when it does not fit."""

    def broke(self, error: Exception) -> None:
        """The transport is no good any more."""


async def hear(stream: trio.abc.ReceiveStream) -> tuple[Resume, bytes]:
    """The peer's RESUME, and what came behind it. PeerError, BrokenResourceError.

    The caller bounds the time.
    """
    greeting = Greeting()
    while True:
        data = await stream.receive_some(GREETING_READ)
        if not data:
            raise PeerError("eof", "the other end closed the connection before its first word")
        rest = greeting.feed_untrusted(data)
        if greeting.resume is not None:
            return greeting.resume, rest


class Carriage:
    """A transport on its way to a tunnel, and what has been heard on it already."""

    def __init__(self, stream: trio.abc.Stream, theirs: Resume | None = None, rest: bytes = b"") -> None:
        self.stream = stream
        self.theirs = theirs  # the peer's RESUME
        self.rest = rest  # what was read behind it
        self.settled = trio.Event()  # the tunnel goes on over it, or will not

    async def drop(self) -> None:
        """Nobody wants it."""
        self.settled.set()
        await trio.aclose_forcefully(self.stream)


class TransportDriver:
    """One transport."""

    def __init__(self, carriage: Carriage, owner: Owner) -> None:
        self.stream = carriage.stream
        self.scope = trio.CancelScope()  # cancelled when the transport is given up
        self._owner = owner
        self._rest = carriage.rest
        if carriage.theirs is not None:
            owner.bytes_in += RESUME_LEN
        self._writer = trio.lowlevel.ParkingLot()
        self._prompt = carriage.stream if isinstance(carriage.stream, PromptStream) else None
        self._sent_alone = 0.0  # trio.current_time() of the last flush without the writer
        self._begun = b""  # what the writer has to go on with

    def wake(self) -> None:
        """The connection has something to send, or nothing more ever.

        A keystroke does not wait for the writer to run: it goes at once while the socket takes it.
        """
        if self._writer and not self._send_alone():
            self._writer.unpark_all()

    def _send_alone(self) -> bool:
        """Whether all that waits has gone; only while the writer is parked."""
        connection, now = self._owner.connection, trio.current_time()
        if self._prompt is None or now < self._sent_alone + ALONE_GAP:
            return False
        data = connection.data_to_send(ALONE_MAX) if connection.has_at_most(ALONE_MAX) else b""
        if not data:
            return False
        self._sent_alone = now
        try:
            if self._prompt.send_nowait(data):
                self._owner.bytes_out += len(data)
                return not self._owner.done
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the writer finds out, and knows what to do
        self._begun = data
        return False

    def last_words(self) -> None:
        """Nothing counts any more but what waits to be sent, for a moment."""
        self.scope.deadline = trio.current_time() + LAST_WORDS
        self._writer.unpark_all()

    async def run(self, *, ours: Resume | None, hear_theirs: bool) -> None:
        """Until the transport breaks or has nothing left to carry; `ours` goes first if it is given."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, hear_theirs)
            await self._write(ours)
            nursery.cancel_scope.cancel()

    async def greet(self, ours: Resume) -> Resume:
        """Says RESUME and hears the other's. PeerError, BrokenResourceError."""
        await self.stream.send_all(ours.encode())
        self._owner.bytes_out += RESUME_LEN
        return await self.hear()

    async def hear(self) -> Resume:
        """The other's RESUME. PeerError, BrokenResourceError."""
        theirs, self._rest = await hear(self.stream)
        self._owner.bytes_in += RESUME_LEN
        return theirs

    def hand_over(self, theirs: Resume) -> Carriage:
        """The transport for another tunnel, with what was heard on it."""
        return Carriage(self.stream, theirs, self._rest)

    async def close(self, *, graceful: bool) -> None:
        """A graceful close tells the peer that the connection is over, not only this transport."""
        # Shielded: a cancellation here would take the place of the error that brought us here.
        with trio.move_on_after(LAST_WORDS) as scope:
            scope.shield = True
            if graceful:
                await self.stream.aclose()
            else:
                await trio.aclose_forcefully(self.stream)

    async def _read(self, hear_theirs: bool) -> None:
        stream, owner, connection = self.stream, self._owner, self._owner.connection
        receive = stream.receive_borrowed if isinstance(stream, BorrowingStream) else stream.receive_some
        try:
            if hear_theirs:
                owner.answered(await self.hear())
            if self._rest:
                owner.bytes_in += len(self._rest)
                connection.receive_data(self._rest, trio.current_time())
                self._rest = b""
                owner.flush()
            while data := await receive(LIVELY_MAX if connection.lively else READ_MAX):
                owner.bytes_in += len(data)
                connection.receive_data(data, trio.current_time())
                owner.flush()
            connection.receive_eof()
            owner.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, PeerError) as error:
            if not connection.ended:  # otherwise there is nothing left but last words
                owner.broke(error)

    async def _write(self, ours: Resume | None) -> None:
        stream, owner, connection = self.stream, self._owner, self._owner.connection
        size = FLUSH_MIN
        greeting = ours.encode() if ours is not None else b""
        try:
            while greeting or not owner.done:
                if not greeting and not connection.wants_to_send:
                    await self._writer.park()
                begun, self._begun = self._begun, b""
                most = min(size, LIVELY_MAX) if connection.lively else size
                data = begun or greeting + connection.data_to_send(most)
                greeting = b""
                if len(data) < FLUSH_SMALL and not begun:
                    # Whoever else is ready to run may add to a flush that would cost a record alone.
                    await trio.lowlevel.checkpoint()
                    data += connection.data_to_send(most)
                owner.made_room()
                if not data:
                    continue
                begin = trio.current_time()
                await stream.send_all(data)
                owner.bytes_out += len(data)
                taken = trio.current_time() - begin
                if taken > FLUSH_SLOW:
                    size = max(FLUSH_MIN, size // 2)
                elif taken < FLUSH_FAST and len(data) >= size // 2:
                    size = min(FLUSH_MAX, size * 2)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # What the peer said before it closed may still be on its way to the reader.
            await trio.sleep(LAST_WORDS)
            owner.broke(error)
