"""The parts of a resume alone: the greeting, what goes again, when a receipt is due."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.mux import frames
from raven.mux.resume import (
    RECEIPT_BYTES,
    RECEIPT_LEAST,
    RECEIPT_SECONDS,
    REPLAY_MAX,
    Greeting,
    Receipts,
    Replay,
    Resume,
)

RESUME = Resume(bytes(range(16)), transport=2, received=1000)


@given(st.lists(st.integers(0, 40), max_size=5), st.binary(max_size=10))
def test_a_greeting_in_any_pieces_and_what_follows_it(cuts: list[int], tail: bytes) -> None:
    wire = RESUME.encode() + tail
    greeting, rest = Greeting(), b""
    edges = sorted({0, len(wire), *(min(cut, len(wire)) for cut in cuts)})
    for begin, end in pairwise(edges):
        piece = wire[begin:end]
        rest += piece if greeting.resume else greeting.feed_untrusted(piece)
    assert greeting.resume == RESUME
    assert rest == tail


def refused(pieces: list[bytes]) -> str:
    """The reason word of what a greeting has against the first piece that it does not take."""
    greeting = Greeting()
    for piece in pieces:
        try:
            greeting.feed_untrusted(piece)
        except PeerError as error:
            return error.reason
    return ""


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (frames.encode_ping(1, received=0), "no-resume"),
        (b"\xff\xff\xff\x03\0\0\0\1", "no-resume"),
        (b"\0\0\0\xff\0\0\0\0", "no-resume"),
        (b"\0\0\x1d\x0b\0\0\0\0", "frame-too-long"),
        (b"\0\0\x1c\x0b\0\0\0\1", "bad-stream"),
        (frames.encode_go_away(1, "certificate-revoked: no"), "ended-by-peer"),
    ],
)
def test_another_first_frame(wire: bytes, reason: str) -> None:
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))]):
        assert refused(pieces) == reason


@given(st.binary(max_size=60))
def test_garbage_is_no_greeting(wire: bytes) -> None:
    greeting = Greeting()
    try:
        greeting.feed_untrusted(wire)
    except PeerError:
        return
    assert greeting.resume is None or wire[3] == frames.FrameType.RESUME


def test_the_secret_is_in_no_repr() -> None:
    assert "hidden" in repr(RESUME)
    assert "\\x01" not in repr(RESUME)


def test_what_goes_again_is_what_had_not_arrived() -> None:
    """Against a byte string: random flushes, receipts and cuts."""
    cuts = 0
    for seed in range(100):
        rng = random.Random(seed)
        replay, sent, arrived = Replay(keep=True), bytearray(), bytearray()
        while len(sent) < 400_000 or arrived != sent:
            choice = rng.randrange(8)
            if replay.has_more:
                data = replay.again(rng.choice([1, 700, 30_000, 1 << 20]))
                assert data
            elif choice < 6 and len(sent) < 400_000:
                data = rng.randbytes(rng.choice([10, 200, 5000, 60_000]))
                replay.add(data)
                sent += data
            else:
                data = b""
            if choice == 6:
                replay.confirm_untrusted(len(arrived))
            elif choice == 7:
                cuts += 1
                data = data[: rng.randrange(len(data) + 1)]  # the transport breaks in the middle of it
                arrived += data
                replay.rewind_untrusted(len(arrived))
                continue
            arrived += data
        assert arrived == sent
    assert cuts > 100


def test_what_is_confirmed_is_forgotten() -> None:
    replay = Replay(keep=True)
    for _ in range(100):
        replay.add(bytes(10_000))
    replay.confirm_untrusted(995_000)
    assert sum(map(len, replay._chunks)) == 10_000
    assert not replay.confirm_untrusted(994_999)  # of a stretch that was repeated
    with pytest.raises(PeerError) as raised:
        replay.confirm_untrusted(1_000_001)
    assert raised.value.reason == "receipt-beyond"
    for wrong, reason in ((994_999, "resume-backwards"), (1_000_001, "receipt-beyond")):
        with pytest.raises(PeerError) as raised:
            replay.rewind_untrusted(wrong)
        assert raised.value.reason == reason


def test_it_is_full_until_a_receipt_comes() -> None:
    replay = Replay(keep=True)
    while not replay.full:
        replay.add(bytes(1 << 20))
    assert replay.sent == REPLAY_MAX
    replay.confirm_untrusted(1)
    assert not replay.full


def test_nothing_is_kept_for_a_connection_that_ends_with_its_transport() -> None:
    replay = Replay(keep=False)
    replay.add(bytes(1 << 20))
    assert not replay._chunks


def test_small_flushes_share_chunks() -> None:
    replay = Replay(keep=True)
    for _ in range(10_000):
        replay.add(b"0123456789")
    assert len(replay._chunks) < 10


def test_when_a_receipt_is_due() -> None:
    receipts = Receipts(now=0.0)
    assert not receipts.arrived(RECEIPT_BYTES - 1, 0.1)
    assert receipts.arrived(1, 0.2)
    assert receipts.tell() == receipts.received == RECEIPT_BYTES
    assert not receipts.arrived(RECEIPT_LEAST - 1, 0.2 + 2 * RECEIPT_SECONDS)
    assert receipts.arrived(1, 0.2 + 2 * RECEIPT_SECONDS)
