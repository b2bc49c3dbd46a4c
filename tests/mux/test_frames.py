"""The wire document, byte for byte, and a decoder that survives anything."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.mux import frames
from raven.mux.codes import EndCode
from raven.mux.frames import FrameDecoder, FrameType

# Every frame type once, as the table writes it.
EXAMPLES = [
    (
        frames.encode_open(1, priority=1, window=262144, header=b"node:10250"),
        "00000f 01 00000001 01 00040000 6e6f64653a3130323530",
    ),
    (frames.encode_accept(1, window=262144, header=b""), "000004 02 00000001 00040000"),
    (frames.data_header(1, 3) + b"abc", "000003 03 00000001 616263"),
    (
        frames.encode_credit(2, consumed=1 << 32, window=65536),
        "00000c 04 00000002 0000000100000000 00010000",
    ),
    (frames.encode(FrameType.FIN, 3), "000000 05 00000003"),
    (frames.encode_reset(4, code=1, message="no"), "000006 06 00000004 00000001 6e6f"),
    (
        frames.encode_datagrams(9, segment_size=2, data=b"aabbc"),
        "000007 07 00000009 0002 6161626263",
    ),
    (
        frames.encode_ping(7, received=1 << 32, pause=25),
        "00000e 08 00000000 00000007 0000000100000000 0019",
    ),
    (frames.encode_pong(7, received=258), "00000c 09 00000000 00000007 0000000000000102"),
    (frames.encode_go_away(0, "bye", back=258), "000009 0a 00000000 00000000 0102 627965"),
    (
        frames.encode_resume(bytes(range(16)), transport=3, received=258),
        "00001c 0b 00000000 000102030405060708090a0b0c0d0e0f 00000003 0000000000000102",
    ),
    (b"".join(frames.encode_control(b"{}")), "000003 0c 00000000 01 7b7d"),
    (frames.encode_ack(1 << 33), "000008 0d 00000000 0000000200000000"),
]


@pytest.mark.parametrize(("frame", "wire"), EXAMPLES, ids=[wire[7:9] for _, wire in EXAMPLES])
def test_frames_are_what_the_table_says(frame: bytes, wire: str) -> None:
    assert frame == bytes.fromhex(wire)


def decoded(pieces: list[bytes]) -> list[tuple[int, int, bytes]]:
    """What a decoder makes of the pieces; the DATA of one stream in a row joined."""
    decoder, out = FrameDecoder(), list[tuple[int, int, bytes]]()
    for piece in pieces:
        for frame_type, stream, payload in decoder.feed_untrusted(piece):
            if frame_type == FrameType.DATA and out and out[-1][:2] == (frame_type, stream):
                out[-1] = (frame_type, stream, out[-1][2] + bytes(payload))
            else:
                out.append((frame_type, stream, bytes(payload)))
    return out


WIRE = b"".join(frame for frame, _ in EXAMPLES)


def test_byte_by_byte_is_the_same_as_whole() -> None:
    whole = decoded([WIRE])
    assert [frame_type for frame_type, _, _ in whole] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert decoded([WIRE[i : i + 1] for i in range(len(WIRE))]) == whole


def test_truncated_input_gives_every_whole_frame() -> None:
    whole = decoded([WIRE])
    for cut in range(len(WIRE)):
        out = decoded([WIRE[:cut]])
        if out and out[-1][0] == FrameType.DATA:
            assert whole[len(out) - 1][2].startswith(out[-1][2])
            out.pop()
        assert out == whole[: len(out)]


@given(st.lists(st.integers(0, len(WIRE)), max_size=8))
def test_any_cut_is_the_same_as_whole(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WIRE)]
    assert decoded([WIRE[a:b] for a, b in pairwise(edges)]) == decoded([WIRE])


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_garbage_is_frames_or_one_peer_error(pieces: list[bytes]) -> None:
    with suppress(PeerError):
        decoded(pieces)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("040001 03 00000001", "frame-too-long"),  # DATA of 256 KiB and a byte
        ("004006 01 00000001", "frame-too-long"),  # OPEN with a header of 16 KiB and a byte
        ("000000 03 00000001", "frame-too-short"),  # empty DATA
        ("00000b 04 00000001", "frame-too-short"),  # CREDIT
        ("00000d 04 00000001", "frame-too-long"),
        ("000001 05 00000001", "frame-too-long"),  # FIN with a payload
        ("000003 06 00000001", "frame-too-short"),  # RESET without a whole code
        ("ffffff 0c 00000000", "frame-too-long"),
        ("000004 00 00000000", "unknown-frame"),
        ("000000 0b 00000000", "frame-too-short"),  # RESUME
        ("000008 0d 00000002", "bad-stream"),  # ACK on a stream
        ("000000 7f 00000001", "unknown-frame"),
        ("000004 08 00000001", "bad-stream"),  # PING on a stream
        ("000001 03 00000000", "bad-stream"),  # DATA on the connection
        ("040001 80 00000000", "frame-too-long"),
    ],
)
def test_a_bad_header_is_refused_before_its_payload_comes(header: str, reason: str) -> None:
    with pytest.raises(PeerError) as raised:
        decoded([bytes.fromhex(header)])
    assert raised.value.reason == reason


def test_extensions_are_skipped() -> None:
    extension = bytes.fromhex("000005 80 00000007") + b"later"
    empty = bytes.fromhex("000000 ff 00000000")
    for pieces in ([extension + empty + WIRE], [extension[i : i + 1] for i in range(13)] + [WIRE]):
        assert [frame for frame in decoded(pieces) if frame[0] < 128] == decoded([WIRE])


def test_data_is_used_as_it_arrives() -> None:
    decoder = FrameDecoder()
    assert [*decoder.feed_untrusted(frames.data_header(1, 100_000))] == []
    assert [(t, s, len(p)) for t, s, p in decoder.feed_untrusted(bytes(60_000))] == [(3, 1, 60_000)]
    assert [(t, s, len(p)) for t, s, p in decoder.feed_untrusted(bytes(40_000))] == [(3, 1, 40_000)]


@given(st.binary(max_size=70_000))
def test_control_messages_come_in_pieces_and_whole(message: bytes) -> None:
    pieces = [
        frames.decode_control_untrusted(memoryview(p)) for _, _, p in decoded(frames.encode_control(message))
    ]
    assert b"".join(piece for _, piece in pieces) == message
    assert [last for last, _ in pieces] == [False] * (len(pieces) - 1) + [True]


@given(st.text())
def test_messages_fit_and_are_text(message: str) -> None:
    [(_, _, payload)] = decoded([frames.encode_reset(1, code=2, message=message * 10)])
    code, text = frames.decode_code_untrusted(memoryview(payload))
    assert code == 2
    assert (message * 10).startswith(text) or "?" in text  # a lone surrogate travels as "?"
    assert len(text.encode()) <= frames.MESSAGE_MAX


def test_strange_payloads() -> None:
    assert frames.decode_code_untrusted(memoryview(b"\0\0\0\5\xff\xfe")) == (5, "\ufffd\ufffd")
    assert frames.decode_go_away_untrusted(memoryview(b"\0\0\0\5\0\7\xff")) == (5, 7, "\ufffd")
    assert frames.end_code(0) is EndCode.SHUTDOWN
    assert frames.end_code(99) is EndCode.INTERNAL
    with pytest.raises(PeerError, match="segments of 0 bytes"):
        frames.decode_datagrams_untrusted(memoryview(b"\0\0x"))
