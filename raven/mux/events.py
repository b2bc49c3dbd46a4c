"""What a `Connection` tells its driver. Values only: compared with `==` in tests, logged by the driver.

Bytes of a stream are not in the events: `Readable` says that `Connection.read` has something, so one event
covers however many frames a wake-up brought, and the buffer stays where its bound is kept.
"""

from dataclasses import dataclass
from typing import NewType

from raven.errors import PeerError
from raven.mux.codes import EndCode, Priority

StreamId = NewType("StreamId", int)  # odd: opened by the initiator of the connection; even: by the other end


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer asks for a stream: answer with `accept` or `reset`."""

    stream: StreamId
    header: bytes
    priority: Priority


@dataclass(frozen=True, slots=True)
class StreamAccepted:
    """The peer took our OPEN: bytes may flow both ways."""

    stream: StreamId
    header: bytes


@dataclass(frozen=True, slots=True)
class Readable:
    """A stream that had nothing to read has bytes or its end; `read` until it says "nothing yet"."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class Writable:
    """A stream whose `send_data` had taken less than offered would take some now."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer refused or broke off a stream; it is gone. `code` may be one we do not know."""

    stream: StreamId
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class ControlReceived:
    """One whole control message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DatagramsReceived:
    """A run of datagrams: `data` is segments of `segment_size` bytes, the last may be shorter."""

    flow: int
    segment_size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A PING came back after `rtt` seconds; `token` tells whether it is one that `ping` sent."""

    token: int
    rtt: float


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer takes no new streams; those open may finish."""

    code: EndCode
    message: str
    back: int = 0  # seconds until we may dial again, by the peer's wish; 0 when it does not say


@dataclass(frozen=True, slots=True)
class Suspended:
    """The transport is lost, the streams are not: close it, and bring the next one within the grace time."""

    error: PeerError


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The last event: flush `data_to_send` once more, then close. No error: both sides wanted it."""

    error: PeerError | None


Event = (
    StreamOpened
    | StreamAccepted
    | Readable
    | Writable
    | StreamReset
    | ControlReceived
    | DatagramsReceived
    | Pong
    | GoAwayReceived
    | Suspended
    | ConnectionEnded
)
