"""Frames of the stream lane. The table below is the wire document; the code under it only obeys it.

Every frame: length of the payload u24, type u8, stream u32, then the payload. Numbers are big-endian, texts
UTF-8. `stream` 0 is the connection itself. Streams are numbered in the order they are opened, without gaps:
1, 3, 5 ... by the initiator (who dialled), 2, 4, 6 ... by the responder.

    type        stream  payload                                                         length of the payload
    1 OPEN      new     priority u8, window u32, header: opaque                         5 to 5 + 16 KiB
    2 ACCEPT    theirs  window u32, header: opaque                                      4 to 4 + 16 KiB
    3 DATA      any     bytes of the stream                                             1 to 256 KiB
    4 CREDIT    any     consumed u64, window u32                                        12
    5 FIN       any     -                                                               0
    6 RESET     any     code u32, message                                               4 to 4 + 1 KiB
    7 DATAGRAMS flow    segment size u16, segments of that size, the last may be short  3 to 2 + 64 KiB
    8 PING      0       token u32, received u64, pause u16                              14
    9 PONG      0       token u32 of the PING, received u64                             12
    10 GOAWAY   0       code u32, back u16, message                                     6 to 6 + 1 KiB
    11 RESUME   0       connection u128, transport u32, received u64                    28
    12 CONTROL  0       flags u8 (1: the message ends here), a piece of a message       1 to 1 + 16 KiB
    13 ACK      0       received u64                                                    8
    128 to 255  any     extensions: whoever does not know the type skips the frame      0 to 256 KiB

Rules. Breaking one ends the connection (GOAWAY code 1, then close), unless it says otherwise.

- OPEN is answered by ACCEPT or by RESET (code: RefusalCode). Until its ACCEPT a stream carries nothing
  else, but its opener may take the OPEN back with RESET. OPENs beyond what the receiver takes get RESET, no
  more.
- `window` of OPEN and ACCEPT is how many bytes its sender takes before its first CREDIT. Priorities are in
  `codes`; an unknown one counts as BULK. Both ends use it.
- CREDIT: the reader behind its sender has consumed all bytes before offset `consumed`; the receiver may
  send up to offset `consumed + window`. Neither `consumed` nor the sum goes back.
- A DATA frame may be longer than any buffer: its bytes are used as they arrive. How many bytes of one
  stream go in a row is the sender's scheduling, not the receiver's memory.
- FIN: its sender sends no more on this stream. A stream is over after a FIN each way, or after one RESET.
- RESET ends both directions at once. Bytes that arrived before it may still be read, and they are whole if
  FIN came before: FIN, RESET (CLOSED) is how an end says "I wrote everything and read no more".
- A frame for a stream that is over is what crossed our FIN or RESET on the way: it is counted and ignored. A
  frame for a stream that was never opened breaks the protocol.
- PING is answered by PONG, ahead of everything else. The receiver may drop PONGs it cannot send in time.
- GOAWAY (SHUTDOWN): OPENs from now on are answered with RESET (GOING_AWAY), streams that are there may
  finish; then its sender closes. Any other code: the connection is over. `back`: after how many seconds the
  receiver may dial again, so that not all who are told do at once; 0 when the sender does not say.
- CONTROL messages are cut into pieces of at most 16 KiB, so that no frame holds up a PONG; pieces of two
  messages do not mix. A message has at most 1 MiB.
- DATAGRAMS are not reliable: either end may drop a run when it has no room. `flow` is the business of the
  ends.
- `pause` of PING: when nothing else happens, its sender sends the next one within so many seconds; 0 when it
  does not say. Whoever has waited longer than that asks itself.

A connection outlives its transport. RESUME is the first frame each way on every transport; an end that turns
the other away before it knows the connection says GOAWAY instead. What follows it, all frames on all the
transports put end to end, is one sequence of bytes each way.

- `received` of RESUME, PING, PONG and ACK: how many bytes of that sequence have arrived at the sender of the
  frame. What lies beyond it is what the other end keeps: on the next transport it begins there again,
  wherever in a frame that is, so everything arrives once, in order, and no frame needs a rule for a
  repetition. Receipts in a repeated stretch are older than its RESUME and say nothing. An end that hears no
  receipt for too long stops sending streams.
- RESUME of the initiator: `connection` is a random secret that it makes for each connection, `transport`
  counts that connection's transports from 0. On transport 0 frames may follow at once.
- RESUME of the responder, which waits for the initiator's: the same three fields. `transport` 0 in answer to
  another says that it does not know the connection, or not as one of this peer: what follows, both ways, is a
  new connection under the same id, from byte 0.
- The responder takes a RESUME only with a higher `transport` than the last, and gives up the transport
  before. A connection belongs to the identity that TLS proved on its first transport.
- A transport that ends with TLS's close_notify ends its connection; one that breaks without does not.
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final

from raven.errors import PeerError
from raven.mux.codes import EndCode


class FrameType(IntEnum):
    """What the type byte says; the table above is the meaning."""

    OPEN = 1
    ACCEPT = 2
    DATA = 3
    CREDIT = 4
    FIN = 5
    RESET = 6
    DATAGRAMS = 7
    PING = 8
    PONG = 9
    GOAWAY = 10
    RESUME = 11
    CONTROL = 12
    ACK = 13


HEADER_LEN: Final = 8  # bytes before each payload
OPEN_HEADER_MAX: Final = 16 * 1024  # bytes; a target and who asks, not a document
MESSAGE_MAX: Final = 1024  # bytes of the sentence in RESET and GOAWAY
DATA_MAX: Final = 256 * 1024  # bytes; one flush of a lone stream is one frame
DATAGRAMS_MAX: Final = 64 * 1024  # bytes of segments; what one UDP GSO call may carry
CONTROL_PIECE_MAX: Final = 16 * 1024  # bytes; one TLS record
CONTROL_MAX: Final = 1 << 20  # bytes; a network map of some thousand nodes
FIRST_EXTENSION: Final = 128

# - length and type: u32 (length << 8 | type)
# - stream: u32
_header = Struct(">II")
_u32 = Struct(">I")
# - priority: u8
# - window: u32
_open = Struct(">BI")
# - consumed: u64
# - window: u32
_credit = Struct(">QI")
_u16 = Struct(">H")
# - code: u32; back: u16, seconds; then the message
_go_away = Struct(">IH")
# - token: u32
# - received: u64
# - pause: u16
_ping = Struct(">IQH")
_pong = Struct(">IQ")
# - connection: 16 bytes
# - transport: u32
# - received: u64
_resume = Struct(">16sIQ")
_u64 = Struct(">Q")

# least and most bytes of a payload
_LENGTHS: Final = {
    FrameType.OPEN: (5, 5 + OPEN_HEADER_MAX),
    FrameType.ACCEPT: (4, 4 + OPEN_HEADER_MAX),
    FrameType.DATA: (1, DATA_MAX),
    FrameType.CREDIT: (12, 12),
    FrameType.FIN: (0, 0),
    FrameType.RESET: (4, 4 + MESSAGE_MAX),
    FrameType.DATAGRAMS: (3, 2 + DATAGRAMS_MAX),
    FrameType.PING: (14, 14),
    FrameType.PONG: (12, 12),
    FrameType.GOAWAY: (6, 6 + MESSAGE_MAX),
    FrameType.RESUME: (28, 28),
    FrameType.CONTROL: (1, 1 + CONTROL_PIECE_MAX),
    FrameType.ACK: (8, 8),
}
_OF_CONNECTION: Final = frozenset(
    {
        FrameType.PING,
        FrameType.PONG,
        FrameType.GOAWAY,
        FrameType.RESUME,
        FrameType.CONTROL,
        FrameType.ACK,
    }
)
_NAMES: Final = {int(member): member.name for member in FrameType}

Frame = tuple[int, int, memoryview]  # type, stream, payload; the payload is borrowed from what was fed


class FrameDecoder:
    """Cuts the byte stream into frames; holds at most one header and one payload that is not DATA."""

    def __init__(self) -> None:
        self._type = 0
        self._stream = 0
        self._left = 0  # bytes of the current payload still to come
        self._in_payload = False
        self._partial = bytearray()  # a header or a payload that did not arrive in one piece

    def feed_untrusted(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """The frames that `data` completes, and pieces of DATA as far as they have come.

        PeerError at the first frame that is too long, too short, unknown, or on the wrong stream.
        """
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if not self._in_payload:
                if not self._partial and end - position >= HEADER_LEN:
                    word, self._stream = _header.unpack_from(view, position)
                    position += HEADER_LEN
                else:
                    missing = HEADER_LEN - len(self._partial)
                    self._partial += view[position : position + missing]
                    position += missing
                    if len(self._partial) < HEADER_LEN:
                        return
                    word, self._stream = _header.unpack(self._partial)
                    self._partial.clear()
                self._type, self._left = word & 0xFF, word >> 8
                _check_header(self._type, self._left, self._stream)
                if self._left == 0:
                    yield self._type, self._stream, view[:0]
                    continue
                self._in_payload = True
                if position == end:
                    return
            piece = view[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            self._in_payload = self._left > 0
            if self._type == FrameType.DATA:
                yield FrameType.DATA, self._stream, piece
            elif self._type >= FIRST_EXTENSION:
                continue
            elif self._in_payload:
                self._partial += piece
            elif self._partial:
                self._partial += piece
                whole, self._partial = self._partial, bytearray()
                yield self._type, self._stream, memoryview(whole)
            else:
                yield self._type, self._stream, piece


def _check_header(frame_type: int, length: int, stream: int) -> None:
    bounds = _LENGTHS.get(frame_type)  # type: ignore[call-overload]  # an int finds its IntEnum member
    if bounds is None:
        if frame_type < FIRST_EXTENSION:
            raise PeerError("unknown-frame", f"frame type {frame_type} is not of this version")
        bounds = (0, DATA_MAX)
    elif frame_type != FrameType.DATAGRAMS and (stream == 0) != (frame_type in _OF_CONNECTION):
        raise PeerError("bad-stream", f"{_NAMES[frame_type]} frame on stream {stream}")
    least, most = bounds
    if not least <= length <= most:
        name = _NAMES.get(frame_type, f"type {frame_type}")
        reason = "frame-too-long" if length > most else "frame-too-short"
        raise PeerError(
            reason, f"{name} frame of {length} bytes on stream {stream}; {least} to {most} allowed"
        )


# What goes out ------------------------------------------------------------------------------------


def data_header(stream: int, length: int) -> bytes:
    """The header of a DATA frame; its bytes follow from elsewhere, uncopied."""
    return _header.pack(length << 8 | FrameType.DATA, stream)


def encode(frame_type: FrameType, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame; `payload` keeps the bounds of the table."""
    least, most = _LENGTHS[frame_type]
    assert least <= len(payload) <= most
    return _header.pack(len(payload) << 8 | frame_type, stream) + payload


def encode_open(stream: int, *, priority: int, window: int, header: bytes) -> bytes:
    return encode(FrameType.OPEN, stream, _open.pack(priority, window) + header)


def encode_accept(stream: int, *, window: int, header: bytes) -> bytes:
    return encode(FrameType.ACCEPT, stream, _u32.pack(window) + header)


def encode_credit(stream: int, *, consumed: int, window: int) -> bytes:
    return encode(FrameType.CREDIT, stream, _credit.pack(consumed, window))


def encode_reset(stream: int, *, code: int, message: str) -> bytes:
    return encode(FrameType.RESET, stream, _u32.pack(code) + _text(message))


def encode_datagrams(flow: int, *, segment_size: int, data: bytes | memoryview) -> bytes:
    return encode(FrameType.DATAGRAMS, flow, _u16.pack(segment_size) + data)


def encode_ping(token: int, *, received: int, pause: int = 0) -> bytes:
    return encode(FrameType.PING, 0, _ping.pack(token, received, pause))


def encode_pong(token: int, *, received: int) -> bytes:
    return encode(FrameType.PONG, 0, _pong.pack(token, received))


def encode_ack(received: int) -> bytes:
    return encode(FrameType.ACK, 0, _u64.pack(received))


def encode_resume(connection: bytes, *, transport: int, received: int) -> bytes:
    return encode(FrameType.RESUME, 0, _resume.pack(connection, transport, received))


def encode_go_away(code: int, message: str, *, back: int = 0) -> bytes:
    """`back` in seconds, at most 65,535."""
    return encode(FrameType.GOAWAY, 0, _go_away.pack(code, back) + _text(message))


def encode_control(message: bytes) -> list[bytes]:
    """The frames of one control message; an empty message is one piece as well."""
    frames = []
    for start in range(0, len(message) or 1, CONTROL_PIECE_MAX):
        piece = message[start : start + CONTROL_PIECE_MAX]
        last = start + CONTROL_PIECE_MAX >= len(message)
        frames.append(encode(FrameType.CONTROL, 0, (b"\x01" if last else b"\x00") + piece))
    return frames


def _text(message: str) -> bytes:
    """UTF-8 of at most MESSAGE_MAX bytes, never cut inside a character."""
    return message.encode("utf-8", "replace")[:MESSAGE_MAX].decode("utf-8", "ignore").encode("utf-8")


# What comes in: payloads whose length the decoder has checked --------------------------------------


def decode_open_untrusted(payload: memoryview) -> tuple[int, int, bytes]:
    """priority, window, header"""
    priority, window = _open.unpack_from(payload)
    return priority, window, bytes(payload[_open.size :])


def decode_accept_untrusted(payload: memoryview) -> tuple[int, bytes]:
    """window, header"""
    return _u32.unpack_from(payload)[0], bytes(payload[4:])


def decode_credit_untrusted(payload: memoryview) -> tuple[int, int]:
    """consumed, window"""
    consumed, window = _credit.unpack(payload)
    return consumed, window


def decode_code_untrusted(payload: memoryview) -> tuple[int, str]:
    """code, message of RESET"""
    return _u32.unpack_from(payload)[0], str(payload[4:], "utf-8", "replace")


def decode_go_away_untrusted(payload: memoryview) -> tuple[int, int, str]:
    """code, seconds until the receiver may be back, message"""
    code, back = _go_away.unpack_from(payload)
    return code, back, str(payload[_go_away.size :], "utf-8", "replace")


def decode_datagrams_untrusted(payload: memoryview) -> tuple[int, bytes]:
    """segment size, segments; PeerError when the size is none"""
    (segment_size,) = _u16.unpack_from(payload)
    if segment_size == 0:
        raise PeerError("bad-datagrams", "DATAGRAMS frame with segments of 0 bytes")
    return segment_size, bytes(payload[2:])


def decode_ping_untrusted(payload: memoryview) -> tuple[int, int, int]:
    """token, received, pause"""
    token, received, pause = _ping.unpack(payload)
    return token, received, pause


def decode_pong_untrusted(payload: memoryview) -> tuple[int, int]:
    """token, received"""
    token, received = _pong.unpack(payload)
    return token, received


def decode_ack_untrusted(payload: memoryview) -> int:
    """received"""
    received: int = _u64.unpack(payload)[0]
    return received


def decode_resume_untrusted(payload: memoryview) -> tuple[bytes, int, int]:
    """connection, transport, received"""
    connection, transport, received = _resume.unpack(payload)
    return connection, transport, received


def decode_control_untrusted(payload: memoryview) -> tuple[bool, memoryview]:
    """whether the message ends here, its piece; unknown flags are ignored"""
    return bool(payload[0] & 1), payload[1:]


def end_code(code: int) -> EndCode:
    """The EndCode a GOAWAY carries; one we do not know is a fault of its sender."""
    return EndCode(code) if code in EndCode.__members__.values() else EndCode.INTERNAL
