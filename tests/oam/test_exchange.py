"""Heads rewritten for the next hop, bodies as they were, and when a connection may live on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.oam.exchange import Exchange, own_answer, refusal_answer
from raven.oam.heads import parse_request_untrusted
from raven.oam.refusal import Refusal
from raven.oam.target import find_route


def exchange(
    *lines: str, method: str = "GET", url: str = "http://edge1:9100/m", version: str = "1.1"
) -> Exchange:
    head = "\r\n".join([f"{method} {url} HTTP/{version}", "Host: asked.for", *lines, "", ""]).encode(
        "latin-1"
    )
    request = parse_request_untrusted(head)
    route = find_route(request.method, request.target, [], lambda name: name == "edge1")
    assert route is not None
    return Exchange(request, route)


def answer(of: Exchange, data: bytes) -> bytes:
    return b"".join(of.from_target(data))


def test_the_target_sees_origin_form_and_its_own_host() -> None:
    sent = exchange("Accept: */*", "x-MIXED: a", "Accept: b").head
    assert sent == (
        b"GET /m HTTP/1.1\r\nHost: edge1:9100\r\nConnection: close\r\n"
        b"Accept: */*\r\nx-MIXED: a\r\nAccept: b\r\n\r\n"
    )


def test_what_is_meant_for_the_proxy_stays_here() -> None:
    sent = exchange(
        "Connection: keep-alive, X-Mine, Content-Length, close",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eA==",
        "X-Mine: 1",
        "X-Yours: 1",
        "Raven-Node: edge1",
        "TE: gzip",
        "Upgrade: h2c",
        "Content-Length: 3",
        method="POST",
        url="http://plc.lan.via.edge1/x?nodeName=2",
    ).head
    assert sent == (
        b"POST /x?nodeName=2 HTTP/1.1\r\nHost: plc.lan\r\nConnection: close\r\n"
        b"X-Yours: 1\r\nContent-Length: 3\r\n\r\n"
    )


def test_trailers_may_be_asked_for() -> None:
    assert b"TE: trailers\r\nConnection: close, TE\r\n" in exchange("TE: trailers, deflate;q=0.5").head


def test_an_upgrade_is_asked_for_and_carried() -> None:
    upgrading = exchange("Connection: Upgrade, HTTP2-Settings", "Upgrade: websocket", "HTTP2-Settings: x")
    assert b"Upgrade: websocket\r\nConnection: Upgrade\r\n" in upgrading.head
    assert b"HTTP2-Settings" not in upgrading.head
    sent = answer(
        upgrading,
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nUpgrade: websocket\r\nA: b\r\n\r\n\x81\x00",
    )
    assert sent == (
        b"HTTP/1.1 101 Switching\r\nA: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00"
    )
    assert upgrading.switched
    assert upgrading.status == 101
    assert not upgrading.keep_alive


def test_an_upgrade_that_is_declined_is_an_answer_like_any() -> None:
    declined = exchange("Connection: Upgrade", "Upgrade: websocket")
    sent = answer(
        declined, b"HTTP/1.1 426 No\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n"
    )
    assert sent == b"HTTP/1.1 426 No\r\nContent-Length: 0\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    assert declined.answered
    assert not declined.switched


def test_nobody_asked_for_101() -> None:
    with pytest.raises(Refusal, match="without being asked"):
        answer(exchange(), b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")


PLAIN = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\n\r\nhello"
)
CHUNKS = b"5\r\nhello\r\n0\r\nChecksum: 9\r\n\r\n"


@given(st.integers(1, len(PLAIN)))
def test_an_answer_in_pieces(at: int) -> None:
    one = exchange()
    sent = answer(one, PLAIN[:at]) + (answer(one, PLAIN[at:]) if at < len(PLAIN) else b"")
    assert sent == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    assert one.answered
    assert one.keep_alive
    assert one.bytes_from_target == 5


def test_trailers_and_chunks_pass_as_they_are() -> None:
    chunked = exchange()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Checksum\r\n\r\n"
    assert answer(chunked, head + CHUNKS + b"junk") == head + CHUNKS
    assert chunked.answered
    assert chunked.keep_alive


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body(status: str) -> None:
    empty = exchange()
    sent = answer(empty, f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n".encode())
    assert sent.endswith(b"\r\nContent-Length: 5\r\n\r\n")
    assert empty.answered
    assert empty.keep_alive


def test_an_answer_to_head_has_no_body() -> None:
    head = exchange(method="HEAD")
    answer(head, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert head.answered


def test_continue_comes_before_the_answer() -> None:
    posting = exchange("Content-Length: 3", "Expect: 100-continue", method="POST")
    assert b"Expect: 100-continue\r\n" in posting.head
    assert answer(posting, b"HTTP/1.1 100 Continue\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert posting.status == 0
    assert posting.from_asker(b"abcGET /") == 3
    assert posting.asked
    sent = answer(
        posting, b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )
    assert sent == b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert posting.answered
    assert posting.keep_alive


def test_an_answer_that_overtakes_its_request_ends_the_connection() -> None:
    posting = exchange("Content-Length: 3", "Expect: 100-continue", method="POST")
    sent = answer(posting, b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    assert sent == b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert not posting.keep_alive


def test_a_request_body_that_is_not_chunked_as_it_says() -> None:
    posting = exchange("Transfer-Encoding: chunked", method="POST")
    assert posting.from_asker(CHUNKS[:9]) == 9
    with pytest.raises(Refusal) as caught:
        posting.from_asker(b"\nzz\r\n")
    assert caught.value.reason == "bad-framing"


def test_an_answer_until_close() -> None:
    endless = exchange()
    sent = answer(endless, b"HTTP/1.0 200 OK\r\n\r\nab")
    assert sent == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab"
    assert not endless.answered
    endless.target_ended()
    assert endless.answered
    assert not endless.keep_alive


@pytest.mark.parametrize(("data", "words"), [(b"", "without an answer"), (b"HTTP/1.1 2", "within an answer")])
def test_a_target_that_closes_before_it_answered(data: bytes, words: str) -> None:
    silent = exchange()
    answer(silent, data)
    with pytest.raises(Refusal, match=words) as caught:
        silent.target_ended()
    assert caught.value.status == 502


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_a_target_that_closes_within_its_answer(framing: bytes) -> None:
    cut = exchange()
    answer(cut, b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n3\r\nabc\r\n")
    with pytest.raises(PeerError) as caught:
        cut.target_ended()
    assert caught.value.reason == "cut-answer"


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n\r\n", b"a" * 70000])
def test_an_answer_that_is_not_http(data: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        answer(exchange(), data)
    assert caught.value.reason == "bad-answer"


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive", "said"),
    [
        ("1.1", "", True, b""),
        ("1.1", "close", False, b"Connection: close\r\n"),
        ("1.0", "", False, b""),
        ("1.0", "keep-alive", True, b"Connection: keep-alive\r\n"),
    ],
)
def test_the_askers_connection(version: str, connection: str, keep_alive: bool, said: bytes) -> None:
    one = exchange(*([f"Connection: {connection}"] if connection else []), version=version)
    assert one.head.startswith(b"GET /m HTTP/" + version.encode())
    assert answer(one, PLAIN) == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + said + b"\r\nhello"
    assert one.keep_alive is keep_alive


def test_an_old_asker_gets_neither_chunks_nor_interim_answers() -> None:
    old = exchange(version="1.0")
    assert answer(old, b"HTTP/1.1 100 Continue\r\n\r\n") == b""
    with pytest.raises(Refusal, match="chunks"):
        answer(old, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_own_answers() -> None:
    assert own_answer(200, [("A", "b")], b"ok", keep_alive=True) == (
        b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"
    )
    assert own_answer(404, [], b"ok", keep_alive=False, head_only=True).endswith(
        b"Content-Length: 2\r\nConnection: close\r\n\r\n"
    )
    refused = refusal_answer(Refusal("not-allowed", "nö\r\nX: y"), keep_alive=False)
    head, _, body = refused.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"Raven-Error: not-allowed\r\n" in head
    assert b"X: y" not in head
    assert body.decode() == "nö\r\nX: y\n"


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_any_answer_ends_in_bytes_or_an_error(pieces: list[bytes]) -> None:
    one = exchange()
    try:
        for data in [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces]:
            if data and not one.answered:
                one.from_target(data)
        if not one.answered:
            one.target_ended()
    except (Refusal, PeerError):
        pass
