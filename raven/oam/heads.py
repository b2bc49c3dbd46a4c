"""HTTP/1.1 heads off the wire: found, bounded, checked against smuggling, then parsed by h11.

h11 forgives what many servers forgive (a bare LF, a folded line, a repeated Content-Length). A proxy must
not: whoever stands behind it may read the same bytes in another way. So requests are checked first. Answers
come from the devices of a site, some of them old; what they may get wrong without harm is forgiven, because
the answer's head is written anew.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import h11

from raven.oam.refusal import Refusal

HEAD_MAX: Final = 64 * 1024  # bytes; kubectl sends some kB of tokens, and nginx takes 32 KiB by default

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FOLDED = re.compile(rb"\r\n[ \t]")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
_REQUEST_END = re.compile(rb"\r\n\r\n")
_ANSWER_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CONTEXT = h11.Request(method="GET", target="/", headers=[("Host", "x"), ("Upgrade", "any")])


class Framing(Enum):
    """Where a body ends that does not say its length."""

    CHUNKED = "chunked"
    """After the last chunk and the trailers."""
    UNTIL_CLOSE = "until close"
    """With the connection; only an answer may."""


@dataclass(frozen=True, slots=True)
class Head:
    """What requests and answers have in common; names and values as they were sent."""

    version: bytes  # b"1.1" or b"1.0"
    headers: tuple[tuple[bytes, bytes], ...]
    body: int | Framing  # the body's length in bytes, or how its end is found

    def values(self, name: bytes) -> list[bytes]:
        """The values of the header `name` (lower case), in order."""
        return [value for key, value in self.headers if key.lower() == name]

    def listed(self, name: bytes) -> set[bytes]:
        """The members, lower case, of the comma-separated header `name`."""
        members = b",".join(self.values(name)).lower().split(b",")
        return {stripped for member in members if (stripped := member.strip())}

    @property
    def persistent(self) -> bool:
        """Whether the sender keeps the connection open (RFC 9112 section 9.3)."""
        options = self.listed(b"connection")
        return b"close" not in options and (self.version == b"1.1" or b"keep-alive" in options)


@dataclass(frozen=True, slots=True)
class RequestHead(Head):
    method: str
    target: str

    @property
    def upgrade(self) -> bool:
        """Whether the connection may become something else with the answer 101."""
        return (
            self.version == b"1.1"
            and b"upgrade" in self.listed(b"connection")
            and bool(self.values(b"upgrade"))
        )


@dataclass(frozen=True, slots=True)
class AnswerHead(Head):
    status: int
    reason: bytes


class HeadBuffer:
    """Bytes received and not used yet: heads are taken off its front, the rest is whatever follows them."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict  # a request's rules about line ends
        self._data = bytearray()
        self._scanned = 0  # the end of a head lies behind this

    def __len__(self) -> int:
        return len(self._data)

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        self._data += data

    def next_head(self) -> bytes | None:
        """The next head with its final empty line, None until it is whole; Refusal when it never will be."""
        if self._strict:
            self._check_start()
        pattern = _REQUEST_END if self._strict else _ANSWER_END
        found = pattern.search(self._data, self._scanned)
        end = len(self._data) if found is None else found.end()
        if end > HEAD_MAX:
            raise Refusal(
                "head-too-large", f"the head is larger than {HEAD_MAX} bytes; send fewer cookies or headers"
            )
        if self._strict and _BARE_LF.search(self._data, max(0, self._scanned), end):
            raise Refusal("bad-request", "a line of the head ends in LF alone; expected CR LF")
        if found is None:
            self._scanned = max(0, end - 3)  # all of an empty line but its last byte may be here
            return None
        return self.take(end)

    def take(self, limit: int | None = None) -> bytes:
        """Up to `limit` bytes off the front, as they came."""
        taken = bytes(self._data if limit is None else self._data[:limit])
        del self._data[: len(taken)]
        self._scanned = 0
        return taken

    def _check_start(self) -> None:
        # RFC 9112 section 2.2: an empty line before a request is ignored.
        while self._scanned == 0 and self._data.startswith(b"\r\n"):
            del self._data[:2]
        if self._data and self._data[0] == 0x16:
            raise Refusal(
                "bad-request", "this port speaks plain HTTP, not TLS; ask with http://, or CONNECT first"
            )


def parse_request_untrusted(head: bytes) -> RequestHead:
    """The request in `head`; Refusal for whatever an RFC forbids or two servers could read differently."""
    if _CONTROL.search(head) or _BARE_CR.search(head):
        raise Refusal("bad-request", "the head has a control character or a CR without LF")
    if _FOLDED.search(head):
        raise Refusal("bad-request", "a header is folded over two lines (obs-fold); send it in one line")
    version = head.partition(b"\r\n")[0].rpartition(b" ")[2]
    if re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version) and version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise Refusal("bad-version", "this port speaks HTTP/1.1")
    _check_framing(list(_raw_names(head)), version)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
    try:
        connection.receive_data(head)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == 501:
            raise Refusal("unknown-coding", "the only transfer coding taken is chunked") from error
        # h11's sentence repeats the line, which may hold a password.
        raise Refusal("bad-request", "the head is not HTTP/1.1 as RFC 9112 has it") from error
    assert isinstance(event, h11.Request), "the head is whole"
    chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
    length = next((int(value) for name, value in event.headers if name == b"content-length"), 0)
    return RequestHead(
        version=event.http_version,
        headers=tuple(event.headers.raw_items()),
        body=Framing.CHUNKED if chunked else length,
        method=event.method.decode("ascii"),
        target=event.target.decode("ascii"),
    )


def _raw_names(head: bytes) -> Iterator[bytes]:
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and name != name.strip():
            raise Refusal("bad-request", "whitespace stands before the colon of a header")
        name = name.lower()
        if name == b"content-length" and not _LENGTH.fullmatch(value.strip(b" \t")):
            raise Refusal("bad-framing", "Content-Length is not one number")
        yield name


def _check_framing(names: list[bytes], version: bytes) -> None:
    """RFC 9112 section 6.1 and 6.3: one and only one thing says where the body ends."""
    if names.count(b"content-length") > 1:
        raise Refusal("bad-framing", "Content-Length is there twice")
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            raise Refusal("bad-framing", "Content-Length and Transfer-Encoding are both there")
        if version != b"HTTP/1.1":
            raise Refusal("bad-framing", "HTTP/1.0 has no Transfer-Encoding")


def parse_answer_untrusted(head: bytes, *, method: str) -> AnswerHead:
    """The answer to a request by `method` in `head`; Refusal "bad-answer" when it is not HTTP."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
    connection.send(_CONTEXT)
    try:
        connection.receive_data(head)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refusal("bad-answer", "the target's answer is not HTTP/1.1; is this the right port?") from error
    assert isinstance(event, h11.InformationalResponse | h11.Response), "the head is whole"
    return AnswerHead(
        version=event.http_version,
        headers=tuple(event.headers.raw_items()),
        body=_answer_body(event, method),
        status=event.status_code,
        reason=event.reason,
    )


def _answer_body(answer: h11.InformationalResponse | h11.Response, method: str) -> int | Framing:
    """RFC 9112 section 6.3, in its order."""
    if method == "HEAD" or answer.status_code < 200 or answer.status_code in (204, 304):
        return 0
    lengths = [int(value) for name, value in answer.headers if name == b"content-length"]
    if any(name == b"transfer-encoding" for name, _ in answer.headers):
        if lengths:
            raise Refusal("bad-answer", "the target's answer has both Content-Length and Transfer-Encoding")
        return Framing.CHUNKED
    return lengths[0] if lengths else Framing.UNTIL_CLOSE
