"""What a connection knows about one stream. The transitions live in `connection`; this is the record.

Two halves end on their own: ours with the FIN we send, the peer's with the FIN we receive. A RESET of
either end, ours or the peer's, ends both. The record goes when nobody can ask for it any more: both FINs
have passed and the reader has seen the end, or the reader has closed the stream.
"""

from dataclasses import dataclass, field

from raven.mux.codes import Priority
from raven.mux.events import StreamId
from raven.mux.flow import ReceiveBuffer, SendBuffer


@dataclass(frozen=True, slots=True)
class StreamUsage:
    """How much one stream carried, and where its bytes wait; bytes."""

    sent: int
    received: int
    window: int  # how far a sender may run ahead of its reader, the wider of both directions
    queue: int  # taken and not sent, or received and not read


@dataclass(slots=True)
class Stream:
    """One stream of the table."""

    id: StreamId
    ours: bool  # we opened it
    priority: Priority
    receive: ReceiveBuffer
    send: SendBuffer = field(default_factory=SendBuffer)
    answered: bool = False  # ACCEPT has gone, or come
    blocked: bool = False  # `send_data` took less than offered; the driver waits for Writable
    readable: bool = False  # Readable was said and `read` has not come back empty since
    fin_queued: bool = False  # the driver writes no more
    fin_sent: bool = False
    fin_received: bool = False
    eof_read: bool = False  # `read` has told the driver of the peer's FIN
    closed: bool = False  # the driver reads no more; the record stays until what was written has left
    reset: bool = False  # the peer broke it off; the record stays until what had arrived is read

    @property
    def over(self) -> bool:
        """Whether the record can go."""
        if self.reset:
            return not self.receive.held and (self.eof_read or not self.fin_received)
        return self.fin_sent and self.fin_received and (self.eof_read or self.closed)

    @property
    def usage(self) -> StreamUsage:
        send, receive = self.send, self.receive
        return StreamUsage(
            sent=send.sent,
            received=receive.received,
            window=max(send.limit - send.consumed, receive.window),
            queue=send.waiting + receive.held,
        )
