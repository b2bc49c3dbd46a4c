"""Bodies end where their framing says, however their bytes are cut, and nothing is taken beyond."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.oam.body import LINE_MAX, TRAILERS_MAX, Body, ChunkedBody, EndlessBody, SizedBody, body_reader
from raven.oam.heads import Framing

# with an extension, and trailers
CHUNKED = b'5\r\nhello\r\n0a;name="v; \xff"\r\n0123456789\r\n000\r\nChecksum: 1\r\nX:\r\n\r\n'


def pump(body: Body, pieces: list[bytes]) -> bytes:
    """Everything the body took, fed as a driver would."""
    taken = b""
    for piece in pieces:
        rest = piece
        while rest and not body.done:
            used = body.feed(rest)
            assert used > 0
            taken += rest[:used]
            rest = rest[used:]
    return taken


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(cut(CHUNKED + b"GET / HTTP/1.1"))
def test_a_chunked_body_ends_behind_its_trailers(pieces: list[bytes]) -> None:
    body = ChunkedBody()
    assert pump(body, pieces) == CHUNKED
    assert body.done
    assert body.feed(b"more") == 0


def test_a_chunked_body_byte_by_byte() -> None:
    body = ChunkedBody()
    for index in range(len(CHUNKED)):
        assert not body.done
        assert body.feed(CHUNKED[index : index + 1]) == 1
    assert body.done


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.data())
def test_any_chunks_pass_whole(chunks: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert pump(ChunkedBody(), data.draw(cut(wire + b"tail"))) == wire


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x5\r\n",
        b" 5\r\n",
        b"5\n",
        b"5\r\r\n",
        b"5;a\rb\r\n",
        b"5;a\x00\r\n",
        b"5 5\r\n",
        b"1" * 16 + b"\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhello\n",
        b"5\r\nhello\r\r",
        b"0\r\nno colon\r\n",
        b"0\r\n folded: a\r\n",
        b"0\r\nA : b\r\n",
        b"0\r\nA: b\n",
        b"0\r\nA: \x01\r\n",
        b"5;" + b"a" * LINE_MAX,
        b"0\r\n" + b"A: b\r\n" * (TRAILERS_MAX // 6 + 1),
    ],
)
def test_chunks_that_two_servers_could_read_differently(wire: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        pump(ChunkedBody(), [wire])
    assert caught.value.reason == "bad-chunk"
    with pytest.raises(PeerError):
        pump(ChunkedBody(), [wire[i : i + 1] for i in range(len(wire))])


@given(st.binary(max_size=80))
def test_any_bytes_are_chunks_or_an_error(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        pump(ChunkedBody(), [data])


@given(st.integers(0, 40), st.data())
def test_a_sized_body(length: int, data: st.DataObject) -> None:
    wire = bytes(range(60))
    body = SizedBody(length)
    assert pump(body, data.draw(cut(wire))) == wire[:length]
    assert body.done


def test_an_endless_body_takes_all() -> None:
    body = EndlessBody()
    assert body.feed(memoryview(b"abc")) == 3
    assert not body.done


def test_the_reader_fits_the_head() -> None:
    assert isinstance(body_reader(7), SizedBody)
    assert body_reader(0).done
    assert isinstance(body_reader(Framing.CHUNKED), ChunkedBody)
    assert isinstance(body_reader(Framing.UNTIL_CLOSE), EndlessBody)
