"""Windows and turns on a connection, in virtual time: who waits for a reader, and who goes before whom."""

import pytest

from raven.errors import LocalError
from raven.mux import frames
from raven.mux.codes import Priority
from raven.mux.connection import LIVELY_BYTES, Limits
from raven.mux.events import DatagramsReceived, StreamId, Writable
from raven.mux.flow import WAITING_MAX
from tests.mux.pair import Pair


def test_a_full_window_waits_for_the_reader() -> None:
    pair = Pair(limits=Limits(window_start=1000))
    stream = pair.open()
    left, right = pair.left.connection, pair.right.connection
    assert left.send_data(stream, bytes(1500)) == 1000
    assert not left.writable(stream)
    pair.settle()
    assert pair.left.of(Writable) == []
    right.read(stream, 600, pair.now)
    pair.settle()
    assert pair.left.of(Writable) == [Writable(stream)]
    assert left.writable(stream)
    assert left.send_data(stream, bytes(1500)) == 600


def test_a_writer_that_filled_our_queue_goes_on_when_it_has_left() -> None:
    """The window has room, so no CREDIT is due: what wakes the writer is its own bytes leaving."""
    pair = Pair(limits=Limits(window_start=8 << 20))
    stream = pair.open()
    left = pair.left.connection
    assert left.send_data(stream, bytes(2 << 20)) == WAITING_MAX
    left.data_to_send(100_000)
    assert left.events() == []
    left.data_to_send(WAITING_MAX // 2)
    assert left.events() == [Writable(stream)]
    assert left.send_data(stream, bytes(2 << 20)) > WAITING_MAX // 2


def test_one_stalled_reader_costs_its_own_window_only() -> None:
    pair = Pair()
    stalled, moving = pair.open(), pair.open()
    left, right = pair.left.connection, pair.right.connection
    accepted = moved = 0
    for _ in range(200):
        accepted += left.send_data(stalled, bytes(50_000))
        moved += left.send_data(moving, bytes(50_000))
        pair.settle()
        pair.read_all(pair.right, moving)
    assert accepted == Limits().window_start
    assert moved == 200 * 50_000
    assert right.read(stalled, 1 << 30, pair.now) == bytes(accepted)


def test_windows_grow_on_a_long_path_and_not_for_a_slow_reader() -> None:
    for reader_rate, grown in ((1 << 30, True), (100_000, False)):
        pair = Pair(delay=0.05)
        stream = pair.open()
        pair.run(1.5)  # the first round trip is known
        for _ in range(600):
            while pair.left.connection.send_data(stream, bytes(65536)) == 65536:
                pass
            pair.run(0.005)
            pair.right.connection.read(stream, reader_rate // 200, pair.now)
        [sending] = pair.left.connection._streams
        room = sending.send.limit - sending.send.consumed
        assert (room == Limits().window_max) is grown
        assert (room == Limits().window_start) is not grown


def test_control_messages_in_order_and_ahead_of_streams() -> None:
    pair = Pair()
    stream = pair.open()
    left = pair.left.connection
    left.send_data(stream, bytes(200_000))
    longest = bytes(frames.CONTROL_MAX)
    assert left.send_control(b"first")
    assert left.send_control(longest)
    assert not left.send_control(b"no room")
    assert left.data_to_send(100)[3] == frames.FrameType.CONTROL
    pair.settle()
    assert left.send_control(b"room again")
    with pytest.raises(LocalError):
        left.send_control(longest + b"x")


def test_datagrams_take_turns_with_bulk_and_are_dropped_when_too_many_wait() -> None:
    pair = Pair()
    stream = pair.open()
    left = pair.left.connection
    left.send_data(stream, bytes(100_000))
    run = bytes(60_000)
    assert [left.send_datagrams(7, segment_size=1400, data=run) for _ in range(5)] == [True] * 4 + [False]
    assert left.counters["datagram-queue-full"] == 1
    out = left.data_to_send(200_000)
    kinds = [kind for kind, _, _ in frames.FrameDecoder().feed_untrusted(out)]
    assert kinds[:4] == [frames.FrameType.DATA, frames.FrameType.DATAGRAMS] * 2
    pair.to_right.send(out, pair.now)
    pair.settle()
    assert pair.right.of(DatagramsReceived) == [DatagramsReceived(7, 1400, run)] * 4
    with pytest.raises(LocalError):
        left.send_datagrams(7, segment_size=0, data=run)


def test_a_keystroke_overtakes_a_copy() -> None:
    pair = Pair()
    copy, shell = pair.open(), pair.open(priority=Priority.INTERACTIVE)
    left = pair.left.connection
    left.send_data(copy, bytes(262_144))
    left.data_to_send(16_384)
    left.send_data(shell, b"l")
    assert left.data_to_send(16_384).startswith(frames.data_header(shell, 1) + b"l")


def test_somebody_who_types_counts_until_megabytes_have_passed() -> None:
    pair = Pair()
    copy, shell = pair.open(), pair.open(priority=Priority.INTERACTIVE)
    left = pair.left.connection

    def copy_on(size: int) -> None:
        while size:
            size -= left.send_data(copy, bytes(min(size, 100_000)))
            pair.settle()
            pair.read_all(pair.right, copy)

    copy_on(200_000)
    assert not left.lively
    left.send_data(shell, b"l")
    pair.settle()
    assert left.lively
    copy_on(LIVELY_BYTES - 200_000)
    assert left.lively
    copy_on(400_000)
    assert not left.lively


def test_bulk_streams_share_alike() -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(4)]
    for stream in streams:
        pair.left.connection.send_data(stream, bytes(250_000))
    out = pair.left.connection.data_to_send(400_000)
    shares = dict.fromkeys(streams, 0)
    for _, stream_id, payload in frames.FrameDecoder().feed_untrusted(out):
        shares[StreamId(stream_id)] += len(payload)
    assert max(shares.values()) - min(shares.values()) <= 16_384


def test_a_stream_that_waits_alone_sends_one_frame_a_flush() -> None:
    pair = Pair()
    stream = pair.open()
    data = bytes(200_000)
    pair.left.connection.send_data(stream, data)
    assert pair.left.connection.data_to_send(262_144) == frames.data_header(stream, 200_000) + data
