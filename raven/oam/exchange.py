"""One request through the proxy and the answer to it: heads are rewritten, bodies pass as they are.

The driver feeds what it reads from the asker and from the target and writes what it gets back; nothing here
waits. Every request has a connection to its target of its own, which ends with the answer: the agent dials
the target across its own LAN, so a kept one would save little, and could be stale when it is used again. The
asker's connection is kept.

Hop-by-hop headers (RFC 9110 section 7.6.1) end here, on both ways. No Via is added: it would tell targets of
the proxy, and some servers answer such requests without compression.
"""

import http
from collections.abc import Iterable
from typing import Final

from raven.errors import PeerError
from raven.oam.body import Body, EndlessBody, body_reader
from raven.oam.heads import AnswerHead, Framing, HeadBuffer, RequestHead, parse_answer_untrusted
from raven.oam.refusal import Refusal
from raven.oam.target import Route

Piece = bytes | bytearray | memoryview

# Those that are always between neighbours; Proxy-* besides. Transfer-Encoding stays as the framing does.
_HOP: Final = frozenset({b"connection", b"keep-alive", b"te", b"upgrade"})
# Framing cannot be listed away in Connection: the body would change its meaning.
_FRAMING: Final = frozenset({b"transfer-encoding", b"content-length"})


# RFC 9110 section 11.7.1. Basic comes first: what most programs can send, with the token as the password.
CHALLENGES: Final = (
    ("Proxy-Authenticate", 'Basic realm="raven"'),
    ("Proxy-Authenticate", 'Bearer realm="raven"'),
)


class Exchange:
    """The rewriting of one request and its answer.

    The asker's bytes go through `from_asker`, the target's through `from_target`. After `switched` both are
    raw and no longer belong here; after `answered` the exchange is over, whether or not all of the request's
    body was sent.
    """

    def __init__(self, request: RequestHead, route: Route) -> None:
        self._request = request
        self._question: Body = body_reader(request.body)
        self._answer_buffer = HeadBuffer(strict=False)
        self._answer: Body | None = None  # once its head is there
        self.head = _request_head(request, route)  # goes to the target first
        self.status = 0  # of the answer; 101 once switched
        self.answered = False
        self.switched = False
        self.keep_alive = request.persistent  # whether the asker's connection survives; final once answered
        self.bytes_to_target = 0
        self.bytes_from_target = 0

    @property
    def asked(self) -> bool:
        """Whether the request is complete."""
        return self._question.done

    def from_asker(self, data: Piece) -> int:
        """How many bytes at the front of `data` go to the target; Refusal when the body makes no sense."""
        try:
            used = self._question.feed(data)
        except PeerError as error:
            raise Refusal("bad-framing", f"the request's body is not chunked as it says: {error}") from error
        self.bytes_to_target += used
        return used

    def from_target(self, data: bytes | bytearray | memoryview) -> list[Piece]:
        """What to send to the asker.

        Raises Refusal "bad-answer" while `status` is 0, PeerError "bad-chunk" after: the asker must then see
        its connection break. What follows a 101 is among the pieces; what follows an answer is dropped.
        """
        if self._answer is not None:
            return self._body(memoryview(data))
        self._answer_buffer.receive_data(data)
        pieces: list[Piece] = []
        while self._answer is None and not self.switched:
            try:
                head = self._answer_buffer.next_head()
            except Refusal as error:
                raise Refusal("bad-answer", f"the target's answer: {error}") from error
            if head is None:
                return pieces
            pieces.append(self._head(parse_answer_untrusted(head, method=self._request.method)))
        rest = memoryview(self._answer_buffer.take())
        if self.switched:
            self.bytes_from_target += len(rest)
            return [*pieces, rest] if rest else pieces
        return pieces + self._body(rest)

    def target_ended(self) -> None:
        """Called at the target's EOF. Raises Refusal "no-answer" before an answer, PeerError within one."""
        if self._answer is None:
            begun = len(self._answer_buffer) > 0
            raise Refusal(
                "no-answer",
                f"the target closed {'within' if begun else 'without'} an answer; look at its log",
            )
        if not self.answered:
            if not isinstance(self._answer, EndlessBody):
                raise PeerError("cut-answer", "the target closed within its answer")
            self.answered = True

    def _head(self, head: AnswerHead) -> Piece:
        """The answer's head for the asker, b"" for one that a HTTP/1.0 asker must not see."""
        if head.status == 101:
            if not self._request.upgrade:
                raise Refusal("bad-answer", "the target changed the protocol without being asked")
            self.switched, self.status, self.keep_alive = True, 101, False
            return _answer_head(head, b"Upgrade")
        if head.status < 200:
            return b"" if self._request.version == b"1.0" else _answer_head(head, b"")
        if head.body is Framing.CHUNKED and self._request.version == b"1.0":
            raise Refusal("bad-answer", "the target answers HTTP/1.0 in chunks")
        self.status = head.status
        self._answer = body_reader(head.body)
        # An answer that overtakes its request's body ends the connection: whether the rest of the body still
        # comes is unknown, above all after Expect: 100-continue.
        if head.body is Framing.UNTIL_CLOSE or not self.asked:
            self.keep_alive = False
        if self._request.version == b"1.0":
            return _answer_head(head, b"keep-alive" if self.keep_alive else b"")
        return _answer_head(head, b"" if self.keep_alive else b"close")

    def _body(self, data: memoryview) -> list[Piece]:
        assert self._answer is not None
        used = self._answer.feed(data)
        self.bytes_from_target += used
        self.answered = self._answer.done
        return [data[:used]] if used else []


def _request_head(request: RequestHead, route: Route) -> bytes:
    """The request as the target sees it: origin-form, its own Host, nothing that was meant for the proxy."""
    connection = [b"close"]
    extra: list[tuple[bytes, bytes]] = [(b"Host", route.authority.encode("ascii"))]
    if request.upgrade:
        connection = [b"Upgrade"]  # alone: some servers compare the whole value
        extra += [(b"Upgrade", value) for value in request.values(b"upgrade")]
    if b"trailers" in request.listed(b"te"):
        connection.append(b"TE")
        extra.append((b"TE", b"trailers"))
    extra.append((b"Connection", b", ".join(connection)))
    # A 1.0 asker is forwarded as one: the target then sends no chunks, which that asker cannot read.
    line = b"%s %s HTTP/%s\r\n" % (
        request.method.encode("ascii"),
        route.path.encode("ascii"),
        request.version,
    )
    kept = _end_to_end(request.headers, request.listed(b"connection") | {b"host", b"raven-node"})
    return line + _lines([*extra, *kept])


def _answer_head(head: AnswerHead, connection: bytes) -> bytes:
    kept = list(_end_to_end(head.headers, head.listed(b"connection")))
    if head.status in (101, 426):
        kept += [(b"Upgrade", value) for value in head.values(b"upgrade")]
        connection = b"Upgrade" if head.status == 101 else b", ".join(filter(None, [connection, b"Upgrade"]))
    if connection:
        kept.append((b"Connection", connection))
    return b"HTTP/1.1 %d %s\r\n" % (head.status, head.reason) + _lines(kept)


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], listed: set[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """The headers that go on to the next hop."""
    for name, value in headers:
        key = name.lower()
        if key in _HOP or key.startswith(b"proxy-") or (key in listed and key not in _FRAMING):
            continue
        yield name, value


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n"


def own_answer(
    status: int, headers: Iterable[tuple[str, str]], body: bytes, *, keep_alive: bool, head_only: bool = False
) -> bytes:
    """An answer by the proxy itself, whole."""
    lines = [(name.encode("ascii"), value.encode("utf-8")) for name, value in headers]
    lines.append((b"Content-Length", b"%d" % len(body)))
    lines.append((b"Connection", b"keep-alive" if keep_alive else b"close"))
    phrase = http.HTTPStatus(status).phrase.encode("ascii")
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase) + _lines(lines) + (b"" if head_only else body)


def refusal_answer(refusal: Refusal, *, keep_alive: bool, head_only: bool = False) -> bytes:
    """What the asker reads when its request ends here: the reason for programs, the sentence for people."""
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Raven-Error", refusal.reason)]
    if refusal.status == http.HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))  # RFC 9110 section 15.5.6 wants it
    if refusal.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        headers += CHALLENGES
    return own_answer(
        refusal.status,
        headers,
        f"{refusal}\n".encode("utf-8", "replace"),
        keep_alive=keep_alive,
        head_only=head_only,
    )
