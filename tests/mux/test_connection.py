"""Two connections in virtual time: what a driver may rely on when both ends keep the rules."""

import pytest

from raven.errors import LocalError
from raven.mux import frames
from raven.mux.codes import EndCode, Priority, RefusalCode, ResetCode
from raven.mux.connection import LIVELY_BYTES, Connection, Limits
from raven.mux.events import (
    ConnectionEnded,
    ControlReceived,
    DatagramsReceived,
    GoAwayReceived,
    Pong,
    Readable,
    StreamAccepted,
    StreamId,
    StreamOpened,
    StreamReset,
    Suspended,
    Writable,
)
from raven.mux.flow import WAITING_MAX
from tests.mux.pair import End, Pair


def test_a_stream_from_open_to_both_ends() -> None:
    pair = Pair()
    left, right = pair.left.connection, pair.right.connection
    stream = left.open_stream(b"to node:10250", priority=Priority.BULK)
    pair.settle()
    assert pair.right.log == [StreamOpened(stream, b"to node:10250", Priority.BULK)]
    right.accept(stream, b"welcome")
    pair.settle()
    assert pair.left.log == [StreamAccepted(stream, b"welcome")]

    assert left.send_data(stream, b"question") == 8
    left.send_eof(stream)
    pair.settle()
    assert pair.right.log[1:] == [Readable(stream)]
    assert right.read(stream, 5, 0.0) == b"quest"
    assert right.read(stream, 5, 0.0) == b"ion"
    assert right.read(stream, 5, 0.0) == b""

    right.send_data(stream, b"answer")
    right.send_eof(stream)
    pair.settle()
    assert pair.read_all(pair.left, stream) == b"answer"
    assert left.streams_open == right.streams_open == 0


def test_both_ends_open_streams() -> None:
    pair = Pair()
    mine = [pair.left.connection.open_stream(b"", priority=Priority.BULK) for _ in range(3)]
    theirs = [pair.right.connection.open_stream(b"", priority=Priority.BULK) for _ in range(3)]
    assert (mine, theirs) == ([1, 3, 5], [2, 4, 6])
    pair.settle()
    assert [event.stream for event in pair.right.of(StreamOpened)] == mine
    assert [event.stream for event in pair.left.of(StreamOpened)] == theirs


def test_refused_with_a_reason() -> None:
    pair = Pair()
    stream = pair.left.connection.open_stream(b"", priority=Priority.INTERACTIVE)
    pair.settle()
    pair.right.connection.reset(stream, RefusalCode.FORBIDDEN, "not on the list")
    pair.settle()
    assert pair.left.log == [StreamReset(stream, RefusalCode.FORBIDDEN, "not on the list")]
    assert pair.left.connection.streams_open == pair.right.connection.streams_open == 0


def test_an_open_taken_back() -> None:
    pair = Pair()
    stream = pair.left.connection.open_stream(b"", priority=Priority.INTERACTIVE)
    pair.settle()
    pair.left.connection.close(stream)
    pair.settle()
    assert pair.right.of(StreamReset) == [StreamReset(stream, ResetCode.CANCELLED, "")]
    with pytest.raises(LocalError, match="does not wait for an answer"):
        pair.right.connection.accept(stream)
    assert pair.right.connection.streams_open == 0


def test_an_accept_that_crosses_the_withdrawal() -> None:
    pair = Pair(delay=1.0)
    stream = pair.left.connection.open_stream(b"", priority=Priority.INTERACTIVE)
    pair.run(1.0)
    pair.left.connection.reset(stream, ResetCode.CANCELLED, "")
    pair.right.connection.accept(stream)
    pair.right.connection.send_data(stream, b"too late")
    pair.run(5.0)
    assert pair.left.of(StreamAccepted) == []
    assert pair.left.connection.counters["late-frame"] == 2
    assert not pair.left.connection.ended
    assert pair.right.connection.streams_open == 0


def test_close_says_everything_first() -> None:
    pair = Pair()
    stream = pair.open()
    data = bytes(range(256)) * 1000
    assert pair.left.connection.send_data(stream, data) == len(data)
    pair.left.connection.close(stream)
    assert pair.left.connection.streams_open == 1  # until what was written has left
    pair.settle()
    assert pair.left.connection.streams_open == 0
    assert pair.right.of(StreamReset) == [StreamReset(stream, ResetCode.CLOSED, "")]
    with pytest.raises(LocalError):
        pair.right.connection.send_data(stream, b"nobody reads this")
    assert pair.read_all(pair.right, stream) == data
    assert pair.right.connection.streams_open == 0


def test_close_after_the_peers_end_is_an_end_like_any_other() -> None:
    pair = Pair()
    stream = pair.open()
    pair.right.connection.send_data(stream, b"unread")
    pair.right.connection.send_eof(stream)
    pair.settle()
    pair.left.connection.close(stream)
    pair.settle()
    assert pair.right.of(StreamReset) == []
    assert pair.right.connection.read(stream, 1, 0.0) == b""
    assert pair.left.connection.streams_open == pair.right.connection.streams_open == 0


def test_reset_drops_what_waits_but_not_what_arrived() -> None:
    pair = Pair()
    stream = pair.open()
    pair.left.connection.send_data(stream, b"arrived")
    pair.settle()
    pair.left.connection.send_data(stream, b"never sent")
    pair.left.connection.reset(stream, ResetCode.ABORTED, "crash")
    pair.settle()
    assert pair.right.of(StreamReset) == [StreamReset(stream, ResetCode.ABORTED, "crash")]
    assert pair.right.connection.read(stream, 100, 0.0) == b"arrived"
    assert pair.right.connection.read(stream, 100, 0.0) is None  # no end was said
    assert pair.left.connection.streams_open == pair.right.connection.streams_open == 0


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


def test_ping() -> None:
    pair = Pair(delay=0.1)
    token = pair.left.connection.ping(pair.now)
    pair.run(1.0)
    [pong] = pair.left.of(Pong)
    assert pong.token == token
    assert pong.rtt == pytest.approx(0.2)
    assert pair.left.connection.rtt == pytest.approx(0.2)


def test_a_dead_path_is_noticed_in_3_seconds_while_someone_waits() -> None:
    pair = Pair(delay=0.1)
    pair.open()
    pair.run(10.0)
    assert not pair.left.connection.ended
    pair.to_right.dead = pair.to_left.dead = True
    died = pair.now
    while not (pair.left.connection.ended and pair.right.connection.ended):
        pair.run(0.1)
    assert pair.now - died < 3.0
    assert [
        end.of(ConnectionEnded)[0].error.reason for end in pair.ends if end.of(ConnectionEnded)[0].error
    ] == [
        "silent",
        "silent",
    ]


def test_an_idle_day_costs_less_than_a_megabyte() -> None:
    pair = Pair(delay=0.05)
    pair.run(3600.0)
    assert not pair.left.connection.ended
    pings = len(frames_of(pair.left, frames.FrameType.PING))
    assert not frames_of(pair.right, frames.FrameType.PING)
    # PING and PONG: TLS record 5 + 1 + 16, TCP with timestamps 32, IPv4 20; and an ACK of 52 a pair.
    a_day = 24 * (len(pair.left.sent) + len(pair.right.sent) + pings * (2 * (22 + 52) + 52))
    assert 60 < pings < 100  # every 25 s at first, then every 50 s
    assert a_day < 600_000


def frames_of(end: End, kind: frames.FrameType) -> list[bytes]:
    decoded = frames.FrameDecoder().feed_untrusted(bytes(end.sent))
    return [bytes(payload) for frame_type, _, payload in decoded if frame_type == kind]


def test_an_idle_connection_whose_path_died_ends_in_half_a_minute() -> None:
    pair = Pair(delay=0.05)
    pair.to_right.dead = pair.to_left.dead = True
    pair.run(29.9)
    assert pair.left.of(Suspended) == []
    assert not pair.left.connection.ended
    pair.run(0.2)
    assert pair.left.connection.ended
    assert pair.left.connection.next_timeout() is None


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


def test_control_messages_arrive_whole() -> None:
    pair = Pair()
    messages = [b"", b"x", bytes(16384), bytes(16385), bytes(frames.CONTROL_MAX)]
    for message in messages:
        assert pair.left.connection.send_control(message)
        pair.settle()
    assert [event.data for event in pair.right.of(ControlReceived)] == messages


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


def test_go_away_lets_streams_finish_and_takes_no_new_ones() -> None:
    pair = Pair(delay=0.1)
    stream = pair.open()
    left, right = pair.left.connection, pair.right.connection
    crossing = left.open_stream(b"", priority=Priority.BULK)
    right.go_away(EndCode.SHUTDOWN, "restart", back=7)
    assert right.why_not_open() is RefusalCode.GOING_AWAY
    pair.run(0.5)
    assert pair.left.of(GoAwayReceived) == [GoAwayReceived(EndCode.SHUTDOWN, "restart", 7)]
    assert [event.code for event in pair.left.of(StreamReset)] == [RefusalCode.GOING_AWAY]
    assert pair.left.of(StreamReset)[0].stream == crossing
    assert left.why_not_open() is RefusalCode.GOING_AWAY
    with pytest.raises(LocalError):
        left.open_stream(b"", priority=Priority.BULK)

    left.send_data(stream, b"still carried")
    left.send_eof(stream)
    right.send_eof(stream)
    pair.run(0.5)
    assert pair.read_all(pair.right, stream) == b"still carried"
    assert pair.read_all(pair.left, stream) == b""
    left.receive_eof()
    assert left.events() == [ConnectionEnded(None)]


def test_an_end_without_notice() -> None:
    pair = Pair()
    pair.open()
    pair.left.connection.receive_eof()
    [ended] = pair.left.connection.events()
    assert isinstance(ended, ConnectionEnded)
    assert ended.error
    assert ended.error.reason == "eof"


def test_bytes_that_arrived_before_the_end_can_be_read() -> None:
    pair = Pair()
    stream = pair.open()
    pair.left.connection.send_data(stream, b"last words")
    pair.settle()
    pair.right.connection.receive_eof()
    assert pair.right.connection.read(stream, 100, 0.0) == b"last words"
    assert pair.right.connection.read(stream, 100, 0.0) is None
    pair.right.connection.close(stream)
    assert pair.right.connection.streams_open == 0
    assert pair.right.connection.data_to_send(1000)[3] == frames.FrameType.GOAWAY


def test_more_streams_than_allowed() -> None:
    pair = Pair(limits=Limits(streams=3))
    left = pair.left.connection
    for _ in range(3):
        left.open_stream(b"", priority=Priority.BULK)
    assert left.why_not_open() is RefusalCode.BUSY

    greedy = Pair()
    greedy.right.connection = Connection(initiator=False, now=greedy.now, limits=Limits(streams=3))
    streams = [greedy.left.connection.open_stream(b"", priority=Priority.BULK) for _ in range(5)]
    greedy.settle()
    assert [(event.stream, event.code) for event in greedy.left.of(StreamReset)] == [
        (streams[3], RefusalCode.BUSY),
        (streams[4], RefusalCode.BUSY),
    ]
    assert greedy.right.connection.counters["too-many-streams"] == 2


def test_stream_numbers_run_out() -> None:
    pair = Pair()
    last = StreamId(0xFFFFFFFF)
    pair.left.connection._streams._next_ours = pair.right.connection._streams._next_theirs = last
    assert pair.open() == last
    assert pair.left.connection.why_not_open() is RefusalCode.GOING_AWAY
    assert pair.right.of(GoAwayReceived)


def test_the_longest_header() -> None:
    pair = Pair()
    header = bytes(frames.OPEN_HEADER_MAX)
    stream = pair.left.connection.open_stream(header, priority=Priority.BULK)
    pair.settle()
    pair.right.connection.accept(stream, header)
    pair.settle()
    assert pair.left.log == [StreamAccepted(stream, header)]
    with pytest.raises(LocalError):
        pair.left.connection.open_stream(header + b"x", priority=Priority.BULK)


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


def test_verbs_after_the_end_do_nothing() -> None:
    pair = Pair()
    stream = pair.open()
    left = pair.left.connection
    left.receive_eof()
    left.data_to_send(1000)
    left.send_data(stream, b"x")
    left.reset(stream, ResetCode.ABORTED, "")
    left.go_away(EndCode.SHUTDOWN, "")
    left.receive_data(b"garbage", pair.now)
    left.receive_eof()
    left.handle_timeout(pair.now + 1000)
    assert not left.send_control(b"")
    assert not left.send_datagrams(1, segment_size=1, data=b"x")
    assert left.data_to_send(1000) == b""
    assert left.why_not_open() is RefusalCode.GOING_AWAY
    assert len(left.events()) == 1
