"""The streams of one tunnel and the tasks that wait for them: who asked, who was asked, who reads and writes.

`raven.net.tunnel` hands on what its connection says of streams; `tunnel_stream` is what a program then holds.
Nothing here knows of transports.
"""

from collections.abc import Awaitable, Callable

import trio

from raven.mux.codes import Priority, RefusalCode, ResetCode
from raven.mux.events import Readable, StreamAccepted, StreamId, StreamOpened, StreamReset, Writable
from raven.net.tunnel_stream import Carrier, IncomingStream, StreamRefused, TunnelStream

Accept = Callable[[IncomingStream], Awaitable[None]]
StreamEvent = Readable | Writable | StreamOpened | StreamAccepted | StreamReset


class StreamTable:
    """The streams of `carrier`, by number."""

    def __init__(self, carrier: Carrier) -> None:
        self.accept: Accept | None = None  # serves one stream that the peer opens; None: all are refused
        self.handlers: trio.Nursery | None = None  # where it runs
        self._carrier = carrier
        self._streams: dict[StreamId, TunnelStream] = {}
        self._offered: dict[StreamId, IncomingStream] = {}  # asked for by the peer, no answer yet
        self._asked: dict[StreamId, Answer] = {}  # asked for by us, no answer yet

    async def open(self, header: bytes, priority: Priority) -> TunnelStream | None:
        """A stream the peer has accepted, None when the tunnel ended meanwhile. StreamRefused."""
        carrier = self._carrier
        stream_id = carrier.connection.open_stream(header, priority=priority)
        stream = TunnelStream(carrier, stream_id, priority=priority, opening=header)
        answer = self._asked[stream_id] = Answer()
        self._streams[stream_id] = stream
        carrier.flush()
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
        return stream if answer.accepted else None

    def all(self) -> list[TunnelStream]:
        """The streams that are accepted and open here, and those this end has asked for."""
        return list(self._streams.values())

    def adopt(self, stream: TunnelStream) -> None:
        """The stream was accepted here."""
        self._offered.pop(stream.stream, None)
        self._streams[stream.stream] = stream

    def forget(self, stream: StreamId) -> None:
        """Nobody here wants to hear of the stream any more."""
        self._streams.pop(stream, None)

    def break_all(self, why: str) -> None:
        """The tunnel has ended: whoever waits is told."""
        for stream in self._streams.values():
            stream.broken(why)
        for answer in self._asked.values():
            answer.set()

    # Events ---------------------------------------------------------------------------------------

    def handle(self, event: StreamEvent) -> None:
        match event:
            case Readable():
                self._streams[event.stream].readable()
            case Writable():
                self._streams[event.stream].writable()
            case StreamOpened():
                self._opened(event)
            case StreamAccepted():
                self._accepted(event)
            case StreamReset():
                self._reset(event)

    def _opened(self, event: StreamOpened) -> None:
        incoming = IncomingStream(self._carrier, event.stream, header=event.header, priority=event.priority)
        if self.accept is None or self.handlers is None:
            incoming.refuse_now(RefusalCode.FORBIDDEN, "this end takes no streams")
            return
        self._offered[event.stream] = incoming
        self.handlers.start_soon(self._serve, incoming, self.accept)

    def _accepted(self, event: StreamAccepted) -> None:
        self._streams[event.stream].header = event.header
        self._asked[event.stream].accepted = True
        self._asked[event.stream].set()

    def _reset(self, event: StreamReset) -> None:
        if event.stream in self._asked and not self._asked[event.stream].come:
            self._asked[event.stream].refuse(event.code, event.message)
        elif event.stream in self._offered:
            self._offered.pop(event.stream).withdrawn.cancel()
        elif event.stream in self._streams:
            text = f": {event.message}" if event.message else ""
            self._streams[event.stream].broken(f"the other end broke the stream off{text}")

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


class Answer:
    """What a task waits for that has asked the peer something."""

    def __init__(self) -> None:
        self.rtt = 0.0
        self.accepted = False
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
