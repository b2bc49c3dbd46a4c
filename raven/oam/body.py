"""Where a body ends, found while its bytes pass by untouched.

Each reader is fed what was received and says how many of the bytes are its body's; the caller forwards
exactly those. Nothing is decoded, so chunk extensions and trailers arrive as they were sent, and a large body
costs one addition for each read.
"""

import re
from typing import Final, Protocol

from raven.errors import PeerError
from raven.oam.heads import Framing

LINE_MAX: Final = 4096  # bytes of a chunk's size line; extensions are rare and short
_GLANCE: Final = 64  # bytes copied to look for the end of a line; most size lines are shorter
TRAILERS_MAX: Final = 64 * 1024  # bytes; as much as a head

# chunk-size and chunk-ext of RFC 9112 section 7.1; what h11 forgives around them hides requests
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class Body(Protocol):
    """One body. After `done` it takes nothing more."""

    @property
    def done(self) -> bool: ...

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes at the front of `data` belong to the body; PeerError "bad-chunk"."""
        ...


class SizedBody:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return self._left == 0

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        used = min(self._left, len(data))
        self._left -= used
        return used


class EndlessBody:
    """A body that ends with its connection."""

    done = False

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        return len(data)


class ChunkedBody:
    """A chunked body with its trailers (RFC 9112 section 7.1)."""

    def __init__(self) -> None:
        self.done = False
        self._skip = 0  # bytes of the chunk and its CR LF still to come
        self._line = bytearray()  # a line begun and not ended
        self._trailers: int | None = None  # bytes of trailers so far; None before the last chunk

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        view = memoryview(data)
        at = 0
        while at < len(view) and not self.done:
            if self._skip > 2:
                step = min(self._skip - 2, len(view) - at)
                self._skip -= step
                at += step
            elif self._skip:
                if view[at] != b"\r\n"[2 - self._skip]:
                    raise PeerError("bad-chunk", "a chunk is longer than it said")
                self._skip -= 1
                at += 1
            else:
                at += self._feed_line(bytes(view[at : at + _GLANCE]))
        return at

    def _feed_line(self, data: bytes) -> int:
        end = data.find(b"\n") + 1
        self._line += data[:end] if end else data
        if len(self._line) > LINE_MAX:
            raise PeerError("bad-chunk", f"a line of the chunked body is longer than {LINE_MAX} bytes")
        if end:
            line = bytes(self._line)
            self._line.clear()
            if self._trailers is None:
                self._size_line(line)
            else:
                self._trailer_line(line)
        return end or len(data)

    def _size_line(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise PeerError("bad-chunk", "a chunk does not begin with its size in hexadecimal digits")
        size = int(match[1], 16)
        if size:
            self._skip = size + 2
        else:
            self._trailers = 0

    def _trailer_line(self, line: bytes) -> None:
        assert self._trailers is not None
        self._trailers += len(line)
        if line == b"\r\n":
            self.done = True
        elif self._trailers > TRAILERS_MAX or not _TRAILER_LINE.fullmatch(line):
            raise PeerError("bad-chunk", "the trailers are not header lines, or too many")


def body_reader(body: int | Framing) -> Body:
    """The reader of a body that a head described."""
    if isinstance(body, int):
        return SizedBody(body)
    return ChunkedBody() if body is Framing.CHUNKED else EndlessBody()
