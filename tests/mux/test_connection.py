"""Two connections in virtual time: what a driver may rely on when both ends keep the rules."""

import pytest

from raven.errors import LocalError
from raven.mux import frames
from raven.mux.codes import EndCode, Priority, RefusalCode, ResetCode
from raven.mux.connection import Connection, Limits
from raven.mux.events import (
    ConnectionEnded,
    ControlReceived,
    GoAwayReceived,
    Pong,
    Readable,
    StreamAccepted,
    StreamId,
    StreamOpened,
    StreamReset,
    Suspended,
)
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


def test_control_messages_arrive_whole() -> None:
    pair = Pair()
    messages = [b"", b"x", bytes(16384), bytes(16385), bytes(frames.CONTROL_MAX)]
    for message in messages:
        assert pair.left.connection.send_control(message)
        pair.settle()
    assert [event.data for event in pair.right.of(ControlReceived)] == messages


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
