"""Heads off the wire: whole, in pieces, too large, and every known way to smuggle a request."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.oam.heads import HEAD_MAX, AnswerHead, Framing, Head, HeadBuffer, parse_answer_untrusted
from raven.oam.heads import parse_request_untrusted as parse
from raven.oam.refusal import Refusal

GET = b"GET http://edge1/ HTTP/1.1\r\nHost: edge1\r\nX-A: 1\r\nx-a:2  \r\n\r\n"


def read(data: bytes) -> bytes | None:
    buffer = HeadBuffer(strict=True)
    buffer.receive_data(data)
    return buffer.next_head()


def request(*lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"POST http://edge1/ " + version, b"Host: edge1", *lines, b"", b""])


def test_a_request_is_read() -> None:
    head = parse(GET)
    assert (head.method, head.target, head.version, head.body) == ("GET", "http://edge1/", b"1.1", 0)
    assert head.headers == ((b"Host", b"edge1"), (b"X-A", b"1"), (b"x-a", b"2"))
    assert head.values(b"x-a") == [b"1", b"2"]
    assert head.listed(b"x-a") == {b"1", b"2"}
    assert head.persistent
    assert not head.upgrade


@given(st.integers(0, 3), st.lists(st.integers(0, 70), max_size=6))
def test_a_head_is_found_however_it_is_cut(empty_lines: int, cuts: list[int]) -> None:
    buffer = HeadBuffer(strict=True)
    data = b"\r\n" * empty_lines + GET + b"the rest"
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    head: bytes | None = None
    for start, end in pairwise(places):
        buffer.receive_data(data[start:end])
        head = head or buffer.next_head()
    assert head == GET
    assert buffer.take() == b"the rest"
    assert len(buffer) == 0


def test_a_head_is_found_byte_by_byte() -> None:
    for strict, data in (
        (True, GET),
        (False, b"HTTP/1.1 200 OK\nA: b\n\n"),
        (False, b"HTTP/1.1 200 OK\r\n\r\n"),
    ):
        buffer = HeadBuffer(strict=strict)
        for index, byte in enumerate(data):
            buffer.receive_data(bytes([byte]))
            head = buffer.next_head()
            assert head == (data if index == len(data) - 1 else None)


def test_heads_in_a_row_are_taken_one_by_one() -> None:
    buffer = HeadBuffer(strict=True)
    buffer.receive_data(GET + GET)
    assert [buffer.next_head(), buffer.next_head(), buffer.next_head()] == [GET, GET, None]


def test_a_head_without_end_is_refused() -> None:
    buffer = HeadBuffer(strict=True)
    buffer.receive_data(b"GET / HTTP/1.1\r\nA: " + b"a" * (HEAD_MAX - 19))
    assert buffer.next_head() is None
    buffer.receive_data(b"aa")
    with pytest.raises(Refusal) as caught:
        buffer.next_head()
    assert caught.value.status == 431
    assert read(b"GET / HTTP/1.1\r\nA: " + b"a" * (HEAD_MAX - 23) + b"\r\n\r\n") is not None


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: b\nC: d", b"\n", b"GET / HTTP/1.1\n\n"]
)
def test_a_bare_lf_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(Refusal, match="LF alone"):
        read(data)


def test_tls_on_the_plain_port_is_told_so() -> None:
    with pytest.raises(Refusal, match="not TLS"):
        read(bytes.fromhex("1603010200010001fc0303"))


SMUGGLING = [
    # reason, status, lines of a POST
    ("bad-framing", 400, [b"Content-Length: 5", b"Transfer-Encoding: chunked"]),
    ("bad-framing", 400, [b"Transfer-Encoding: chunked", b"content-length: 5"]),
    ("bad-framing", 400, [b"Content-Length: 5", b"Content-Length: 5"]),
    ("bad-framing", 400, [b"Content-Length: 5", b"Content-Length: 6"]),
    ("bad-framing", 400, [b"Content-Length: 5, 5"]),
    ("bad-framing", 400, [b"Content-Length: +5"]),
    ("bad-framing", 400, [b"Content-Length: -5"]),
    ("bad-framing", 400, [b"Content-Length: 0x5"]),
    ("bad-framing", 400, [b"Content-Length: 5 5"]),
    ("bad-framing", 400, [b"Content-Length:"]),
    ("bad-framing", 400, [b"Content-Length: " + b"9" * 19]),
    ("bad-framing", 400, [b"Content-Length: \xb2"]),
    ("bad-request", 400, [b"Content-Length : 5"]),
    ("bad-request", 400, [b"Transfer-Encoding\t: chunked"]),
    ("bad-request", 400, [b"X: a", b" Transfer-Encoding: chunked"]),
    ("bad-request", 400, [b"X: a", b"\tfolded"]),
    ("bad-request", 400, [b"Transfer-Encoding: chunked\x00"]),
    ("bad-request", 400, [b"Transfer-Encoding:\x0bchunked"]),
    ("bad-request", 400, [b"X: a\rTransfer-Encoding: chunked"]),
    ("bad-request", 400, [b"X: a\x7f"]),
    ("bad-request", 400, [b": nameless"]),
    ("bad-request", 400, [b"no colon"]),
    ("bad-request", 400, [b"(bad): name"]),
    ("bad-request", 400, [b"Host: edge2"]),
    ("unknown-coding", 501, [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"]),
    ("unknown-coding", 501, [b"Transfer-Encoding: identity"]),
    ("unknown-coding", 501, [b"Transfer-Encoding: gzip, chunked"]),
    ("unknown-coding", 501, [b"Transfer-Encoding: chunked, identity"]),
    ("unknown-coding", 501, [b"Transfer-Encoding: xchunked"]),
    ("unknown-coding", 501, [b"Transfer-Encoding:"]),
]


@pytest.mark.parametrize(("reason", "status", "lines"), SMUGGLING)
def test_what_could_be_read_in_two_ways_is_refused(reason: str, status: int, lines: list[bytes]) -> None:
    data = request(*lines)
    with pytest.raises(Refusal) as caught:
        parse(data)
    assert (caught.value.reason, caught.value.status) == (reason, status)


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("bad-framing", request(b"Transfer-Encoding: chunked", version=b"HTTP/1.0")),
        ("bad-version", b"PRI * HTTP/2.0\r\n\r\n"),
        ("bad-version", b"GET / HTTP/1.2\r\n\r\n"),
        ("bad-request", b"GET / HTTP/1.1\r\n\r\n"),  # no Host
        ("bad-request", b"GET /\r\n\r\n"),
        ("bad-request", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad-request", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad-request", b"GET / http/1.1\r\nHost: a\r\n\r\n"),
        ("bad-request", b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad-request", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad-request", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad-request", b"\r\n\r\n"),
    ],
)
def test_what_is_not_http_is_refused(reason: str, data: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse(data)
    assert caught.value.reason == reason


def test_a_refusal_repeats_nothing_of_the_head() -> None:
    with pytest.raises(Refusal) as caught:
        parse(request(b"Authorization secret-word"))
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "version", "body", "persistent", "upgrade"),
    [
        ([b"Content-Length: 5"], b"HTTP/1.1", 5, True, False),
        ([b"Transfer-Encoding: Chunked"], b"HTTP/1.1", Framing.CHUNKED, True, False),
        ([b"Connection: a, Close"], b"HTTP/1.1", 0, False, False),
        ([], b"HTTP/1.0", 0, False, False),
        ([b"Connection: Keep-Alive"], b"HTTP/1.0", 0, True, False),
        ([b"Connection: keep-alive, Upgrade", b"Upgrade: websocket"], b"HTTP/1.1", 0, True, True),
        ([b"Connection: upgrade"], b"HTTP/1.1", 0, True, False),
        ([b"Upgrade: websocket"], b"HTTP/1.1", 0, True, False),
        ([b"Connection: Upgrade", b"Upgrade: websocket"], b"HTTP/1.0", 0, False, False),
    ],
)
def test_what_a_request_says_of_its_connection(
    lines: list[bytes], version: bytes, body: int | Framing, persistent: bool, upgrade: bool
) -> None:
    head = parse(request(*lines, version=version))
    assert (head.body, head.persistent, head.upgrade) == (body, persistent, upgrade)


@pytest.mark.parametrize(
    ("method", "head", "body"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 7),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 0),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Framing.CHUNKED),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\n", Framing.UNTIL_CLOSE),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 0),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 0),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\n", 0),
        ("GET", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 0),
        # what old devices say and everybody understands
        ("GET", b"HTTP/1.0 200 OK\nContent-Length: 7\nX: a\n b\n\n", 7),
        ("GET", b"HTTP/1.1 200\r\nContent-Length: 7\r\nContent-Length: 7\r\n\r\n", 7),
        ("GET", b"HTTP/1.1 999 What\r\n\r\n", Framing.UNTIL_CLOSE),
    ],
)
def test_where_an_answer_ends(method: str, head: bytes, body: int | Framing) -> None:
    assert parse_answer_untrusted(head, method=method).body == body


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\x00: a\r\n\r\n",
        b"\r\n\r\n",
        b"\n\n",
    ],
)
def test_an_answer_that_is_not_http_is_the_targets_fault(head: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse_answer_untrusted(head, method="GET")
    assert (caught.value.reason, caught.value.status) == ("bad-answer", 502)


WORDS = [
    *(
        b"GET ",
        b"/",
        b" HTTP/1.1",
        b"HTTP/1.0 200 OK",
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b" ",
        b"\x00",
        b"\r\n\r\n",
    ),
    *(b"Host: a", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Upgrade: x", b"Connection: close"),
]
pieces = st.one_of(st.sampled_from(WORDS), st.binary(max_size=4))


@settings(max_examples=300)
@given(st.lists(pieces, max_size=14).map(b"".join))
def test_any_bytes_are_a_head_an_unfinished_one_or_a_refusal(data: bytes) -> None:
    for strict in (True, False):
        buffer = HeadBuffer(strict=strict)
        buffer.receive_data(data)
        try:
            while (head := buffer.next_head()) is not None:
                found: Head = parse(head) if strict else parse_answer_untrusted(head, method="GET")
                assert isinstance(found, AnswerHead) is not strict
        except Refusal:
            pass


@given(st.lists(st.sampled_from([bytes(line) for _, _, lines in SMUGGLING for line in lines]), max_size=4))
def test_a_request_that_passes_has_one_framing_only(lines: list[bytes]) -> None:
    data = request(*lines)
    try:
        head = parse(data)
    except Refusal:
        return
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    assert len(lengths) + len(codings) <= 1
    assert head.body == (Framing.CHUNKED if codings else int((lengths or [b"0"])[0]))
