"""The order of what leaves, and the bounds of what waits."""

from collections import Counter

from raven.mux import frames
from raven.mux.codes import Priority
from raven.mux.events import StreamId
from raven.mux.flow import ReceiveBuffer, WindowBudget
from raven.mux.frames import FrameType
from raven.mux.outbox import PONGS_MAX, TAIL_MIN, Outbox
from raven.mux.resume import Receipts
from raven.mux.stream import Stream


def outbox(control_max: int = 1000, datagrams_max: int = 1000) -> tuple[Outbox, Counter[str]]:
    counters: Counter[str] = Counter()
    receipts = Receipts(now=0.0)
    return Outbox(receipts, control_max=control_max, datagrams_max=datagrams_max, counters=counters), counters


def stream(number: int, *, priority: Priority = Priority.BULK, waiting: int = 0) -> Stream:
    receive = ReceiveBuffer(WindowBudget(1 << 20, least=1000), window=1000, window_max=1000)
    made = Stream(StreamId(number), True, priority, receive)
    made.send.limit = 1 << 30
    made.send.take(bytes(waiting))
    return made


def order(data: bytes) -> list[tuple[int, int, int]]:
    """Type, stream and length of the payload of each frame."""
    return [
        (kind, number, len(payload)) for kind, number, payload in frames.FrameDecoder().feed_untrusted(data)
    ]


def test_the_order() -> None:
    box, _ = outbox()
    bulk, shell = stream(1, waiting=10), stream(3, priority=Priority.INTERACTIVE, waiting=20)
    box.wake(bulk)
    box.datagrams(frames.encode_datagrams(9, segment_size=5, data=b"12345"))
    box.wake(shell)
    box.credit(bulk)
    box.control(frames.encode_control(b"hello")[0])
    box.control(frames.encode_accept(5, window=1, header=b""))
    box.pong(7)
    assert box
    ended: list[Stream] = []
    assert order(box.drain(100_000, ended)) == [
        (FrameType.PONG, 0, 12),
        (FrameType.CONTROL, 0, 6),
        (FrameType.ACCEPT, 5, 4),
        (FrameType.CREDIT, 1, 12),
        (FrameType.DATA, 3, 20),
        (FrameType.DATA, 1, 10),
        (FrameType.DATAGRAMS, 9, 7),
    ]
    assert not box
    assert not ended


def test_no_stream_before_the_control_frames_that_wait() -> None:
    box, _ = outbox()
    sending = stream(1, waiting=100)
    box.wake(sending)
    for _ in range(3):
        box.control(frames.encode_control(bytes(50))[0])
    assert [kind for kind, _, _ in order(box.drain(100, []))] == [FrameType.CONTROL] * 2
    assert box.control_size == 59
    assert [kind for kind, _, _ in order(box.drain(100, []))] == [FrameType.CONTROL]
    assert [kind for kind, _, _ in order(box.drain(100, []))] == [FrameType.DATA]


def test_quanta_and_the_flush_limit() -> None:
    box, _ = outbox()
    first, second = stream(1, waiting=40_000), stream(3, waiting=40_000)
    box.wake(first)
    box.wake(second)
    assert order(box.drain(40_000, [])) == [
        (FrameType.DATA, 1, 16_384),
        (FrameType.DATA, 3, 16_384),
        (FrameType.DATA, 1, 40_000 - 2 * 16_392 - 8),
    ]
    box.forget(second)
    assert order(box.drain(100, [])) == [(FrameType.DATA, 1, TAIL_MIN - 8)]  # a frame has at least that


def test_large_flushes_have_large_quanta() -> None:
    box, _ = outbox()
    for number in (1, 3):
        box.wake(stream(number, waiting=200_000))
    quantum = 256 * 1024 // 4
    assert order(box.drain(256 * 1024, []))[:3] == [
        (FrameType.DATA, 1, quantum),
        (FrameType.DATA, 3, quantum),
        (FrameType.DATA, 1, quantum),
    ]


def test_whether_little_waits() -> None:
    box, _ = outbox()
    box.ack()
    assert not box.has_at_most(1000)  # nobody waits for a receipt
    box.control(bytes(60))
    box.wake(stream(1, waiting=100))
    assert box.has_at_most(160)
    assert not box.has_at_most(159)


def test_who_types_is_noticed() -> None:
    box, _ = outbox()
    copy, typing = stream(1, waiting=200_000), stream(3, waiting=1)
    box.wake(copy)
    box.drain(100_000, [])
    box.drain(99_980, [])
    box.drain(100_000, [])  # the last bytes of the copy are few, and nobody typed them
    assert not box
    assert not box.answered
    box.wake(typing)
    box.drain(100_000, [])
    assert box.answered


def test_the_end_follows_the_last_byte() -> None:
    box, _ = outbox()
    half, closed, both = stream(1, waiting=5), stream(3, waiting=5), stream(5, waiting=5)
    for sending in (half, closed, both):
        sending.fin_queued = True
        box.wake(sending)
    closed.closed = True
    both.fin_received = both.eof_read = True
    ended: list[Stream] = []
    kinds = order(box.drain(100_000, ended))
    assert [kind for kind, number, _ in kinds if number == 1] == [FrameType.DATA, FrameType.FIN]
    assert [kind for kind, number, _ in kinds if number == 3] == [
        FrameType.DATA,
        FrameType.FIN,
        FrameType.RESET,
    ]
    assert [kind for kind, number, _ in kinds if number == 5] == [FrameType.DATA, FrameType.FIN]
    assert ended == [closed, both]


def test_bounds() -> None:
    box, counters = outbox(control_max=100, datagrams_max=100)
    assert box.control(bytes(60))
    assert not box.control(bytes(60))
    run = frames.encode_datagrams(1, segment_size=50, data=bytes(50))
    assert box.datagrams(run)
    assert not box.datagrams(run)
    for token in range(PONGS_MAX + 3):
        box.pong(token)
    assert counters == {"datagram-queue-full": 1, "pong-dropped": 3}
    box.clear()
    assert not box
    assert box.drain(1000, []) == b""


def test_credits_carry_the_numbers_of_the_moment() -> None:
    box, _ = outbox()
    reading = stream(1)
    box.credit(reading)
    reading.receive.put_untrusted(memoryview(bytes(700)))
    reading.receive.take(600)
    box.credit(reading)
    [(_, _, payload)] = frames.FrameDecoder().feed_untrusted(box.drain(1000, []))
    assert frames.decode_credit_untrusted(payload) == (600, 1000)
    box.credit(reading)
    box.uncredit(reading)
    assert not box
