"""Windows: against a naive model that keeps everything in one byte string."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.mux.flow import JOINED_MAX, WAITING_MAX, Chunk, ReceiveBuffer, SendBuffer, WindowBudget

NO_LIMIT = 1 << 40


def test_sender_against_a_byte_string() -> None:
    """Random writes, sends and credits; the bytes come out in order."""
    for seed in range(200):
        rng = random.Random(seed)
        buffer, written, sent, acked, limit = SendBuffer(), bytearray(), bytearray(), 0, 0
        for _ in range(60):
            match rng.randrange(3):
                case 0:
                    data = rng.randbytes(rng.choice([1, 10, 5000, 40_000]))
                    kinds: list[bytes | bytearray | memoryview] = [
                        data,
                        bytearray(data),
                        memoryview(data),
                        memoryview(bytearray(data)),
                    ]
                    offered = rng.choice(kinds)
                    taken = buffer.take(offered)
                    assert taken == min(
                        len(data), limit - len(written), WAITING_MAX - (len(written) - len(sent))
                    )
                    written += data[:taken]
                    if isinstance(offered, bytearray):
                        offered[:] = bytes(len(offered))  # the caller may use its buffer again
                case 1 if buffer.waiting:
                    parts: list[Chunk] = []
                    size = rng.randint(1, buffer.waiting)
                    buffer.send(size, parts)
                    assert sum(map(len, parts)) == size
                    sent += b"".join(parts)
                case _:
                    acked = rng.randint(acked, len(sent))
                    limit = max(limit, acked + rng.choice([1000, 100_000]))
                    buffer.credit_untrusted(acked, limit - acked)
            assert (buffer.consumed, buffer.sent, buffer.written, buffer.limit) == (
                acked,
                len(sent),
                len(written),
                limit,
            )
            assert buffer.waiting == len(written) - len(sent)
        assert sent == written[: len(sent)]


def test_what_waits_is_bounded_and_what_was_sent_is_gone() -> None:
    buffer, parts = SendBuffer(), list[Chunk]()
    buffer.limit = NO_LIMIT
    assert buffer.take(bytes(2 * WAITING_MAX)) == WAITING_MAX
    assert buffer.room() == 0
    buffer.send(400_000, parts)
    assert sum(map(len, buffer._unsent)) == WAITING_MAX - 400_000
    assert buffer.room() == 400_000


def test_credit_makes_room() -> None:
    buffer = SendBuffer()
    buffer.limit = 100_000
    buffer.take(bytes(100_000))
    buffer.send(100_000, [])
    assert buffer.room() == 0
    buffer.credit_untrusted(95_000, 20_000)
    assert buffer.room() == 15_000


def test_small_writes_share_chunks() -> None:
    buffer = SendBuffer()
    buffer.limit = NO_LIMIT
    for _ in range(50_000):
        buffer.take(b"x")
    assert len(buffer._unsent) == -(-50_000 // JOINED_MAX)


@pytest.mark.parametrize(
    ("consumed", "window", "reason"),
    [(101, 900, "credit-beyond"), (49, 2000, "credit-backwards"), (60, 939, "credit-backwards")],
)
def test_credit_that_cannot_be(consumed: int, window: int, reason: str) -> None:
    buffer = SendBuffer()
    buffer.credit_untrusted(0, 1000)
    buffer.take(bytes(200))
    buffer.send(100, [])
    buffer.credit_untrusted(50, 950)
    with pytest.raises(PeerError) as raised:
        buffer.credit_untrusted(consumed, window)
    assert raised.value.reason == reason


def receiver(window: int = 100_000, total: int = NO_LIMIT, window_max: int = 1_000_000) -> ReceiveBuffer:
    return ReceiveBuffer(WindowBudget(total, least=1000), window=window, window_max=window_max)


@given(st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), max_size=40), st.randoms())
def test_receiver_against_a_byte_string(steps: list[tuple[int, int]], rng: random.Random) -> None:
    buffer, put, taken = receiver(window=NO_LIMIT), bytearray(), bytearray()
    for size, most in steps:
        piece = rng.randbytes(size)
        scratch = bytearray(piece)
        buffer.put_untrusted(memoryview(scratch))
        scratch[:] = bytes(size)  # what was fed is only borrowed
        put += piece
        if rng.random() < 0.7 and buffer.held:
            expected = min(most, len(put) - len(taken))
            taken += buffer.take(most)
            assert len(taken) == buffer.consumed
            assert expected == min(most, expected)
        assert buffer.held == len(put) - len(taken)
    assert taken == put[: len(taken)]
    if buffer.held:
        assert taken + buffer.take(NO_LIMIT) == put


def test_small_pieces_share_chunks() -> None:
    buffer = receiver()
    for _ in range(50_000):
        buffer.put_untrusted(memoryview(b"x"))
    assert len(buffer._chunks) == -(-50_000 // JOINED_MAX)


def test_a_peer_that_exceeds_its_window() -> None:
    buffer = receiver(window=1000)
    buffer.put_untrusted(memoryview(bytes(1000)))
    buffer.take(600)
    with pytest.raises(PeerError) as raised:
        buffer.put_untrusted(memoryview(b"x"))  # consumed, but no CREDIT has told the peer
    assert raised.value.reason == "window-exceeded"


def feed(buffer: ReceiveBuffer, windows: int, *, seconds_each: float) -> None:
    """So many windows' worth arrive and are read, each in the given time."""
    now = 0.0
    for _ in range(windows):
        window = buffer.window
        for _ in range(10):
            now += seconds_each / 10
            buffer.put_untrusted(memoryview(bytes(window // 10)))
            buffer.take(window)
            if buffer.credit_due(now, 0.1):
                buffer.credit()


def test_the_window_grows_while_it_is_what_limits() -> None:
    buffer = receiver(window=100_000, window_max=800_000)
    feed(buffer, 20, seconds_each=0.1)  # a window each round trip: the sender waits for CREDIT
    assert buffer.window == 800_000


def test_the_window_stays_when_reader_or_path_is_slower() -> None:
    buffer = receiver(window=100_000)
    feed(buffer, 20, seconds_each=0.3)
    assert buffer.window == 100_000


def test_windows_share_a_budget() -> None:
    budget = WindowBudget(350_000, least=1000)
    first, second = (ReceiveBuffer(budget, window=100_000, window_max=NO_LIMIT) for _ in range(2))
    feed(first, 20, seconds_each=0.1)
    assert first.window == 200_000  # 50,000 are left, not another 200,000
    third = ReceiveBuffer(budget, window=100_000, window_max=NO_LIMIT)
    fourth = ReceiveBuffer(budget, window=100_000, window_max=NO_LIMIT)
    assert (second.window, third.window, fourth.window) == (100_000, 50_000, 1000)
    first.drop()
    assert ReceiveBuffer(budget, window=100_000, window_max=NO_LIMIT).window == 100_000
