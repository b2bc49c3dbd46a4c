"""A peer that breaks the rules: every rule of the wire document has its reason word here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.mux import frames
from raven.mux.codes import EndCode
from raven.mux.connection import Connection, Limits
from raven.mux.events import ConnectionEnded, StreamAccepted, StreamOpened, StreamReset
from raven.mux.frames import FrameType

OPEN_1 = frames.encode_open(1, priority=1, window=1000, header=b"")
OPEN_3 = frames.encode_open(3, priority=1, window=1000, header=b"")
FIN_1 = frames.encode(FrameType.FIN, 1)
DATA_1 = frames.data_header(1, 1) + b"x"
RESET_1 = frames.encode_reset(1, code=65, message="")


def responder(limits: Limits | None = None) -> Connection:
    """A connection whose peer is the test."""
    return Connection(initiator=False, now=0.0, limits=limits or Limits())


def feed(connection: Connection, *wire: bytes, accept: bool = True) -> str:
    """Feeds the frames, accepting streams in between; the reason word of the end, "" without one."""
    for frame in wire:
        connection.receive_data(frame, 0.0)
        for event in connection.events():
            match event:
                case StreamOpened(stream) if accept:
                    connection.accept(stream)
                case ConnectionEnded(error) if error:
                    return error.reason
    return ""


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ([frames.encode_open(3, priority=1, window=1, header=b"")], "open-out-of-order"),
        ([OPEN_1, OPEN_1], "open-out-of-order"),
        ([frames.encode_open(2, priority=1, window=1, header=b"")], "open-out-of-order"),  # our number
        ([OPEN_1, frames.encode_open(5, priority=1, window=1, header=b"")], "open-out-of-order"),
        ([DATA_1], "never-opened"),
        ([frames.data_header(2, 1) + b"x"], "never-opened"),
        ([FIN_1], "never-opened"),
        ([RESET_1], "never-opened"),
        ([frames.encode_credit(1, consumed=0, window=1)], "never-opened"),
        ([frames.encode_accept(2, window=1, header=b"")], "never-opened"),
        ([OPEN_1, frames.encode_accept(1, window=1, header=b"")], "unasked-accept"),
        ([OPEN_1, FIN_1, FIN_1], "after-fin"),
        ([OPEN_1, FIN_1, DATA_1], "after-fin"),
        ([OPEN_1, frames.encode_credit(1, consumed=1, window=1)], "credit-beyond"),
        ([OPEN_1, frames.encode_credit(1, consumed=0, window=999)], "credit-backwards"),
        ([OPEN_1, frames.data_header(1, 262_144) + bytes(262_144), DATA_1], "window-exceeded"),
        ([b"\xff\xff\xff\x03\0\0\0\1"], "frame-too-long"),
        ([frames.encode_go_away(1, "your fault")], "ended-by-peer"),
        ([frames.encode_go_away(77, "strange")], "ended-by-peer"),
    ],
)
def test_rules(wire: list[bytes], reason: str) -> None:
    connection = responder()
    assert feed(connection, *wire) == reason
    assert connection.ended
    last = connection.data_to_send(1000)
    if reason == "ended-by-peer":
        assert last == b""
    else:
        [(kind, _, payload)] = frames.FrameDecoder().feed_untrusted(last)
        code, _, message = frames.decode_go_away_untrusted(payload)
        assert (kind, code) == (FrameType.GOAWAY, EndCode.PROTOCOL)
        assert message.startswith(reason)
    assert feed(connection, OPEN_3, DATA_1) == ""  # nothing counts after the end


@pytest.mark.parametrize("frame", [DATA_1, FIN_1, frames.encode_credit(1, consumed=0, window=2000)])
def test_nothing_before_the_accept(frame: bytes) -> None:
    assert feed(responder(), OPEN_1, frame, accept=False) == "before-accept"


@pytest.mark.parametrize("frame", [DATA_1, FIN_1, RESET_1, frames.encode_credit(1, consumed=99, window=2000)])
def test_frames_of_a_stream_that_is_over_are_ignored(frame: bytes) -> None:
    connection = responder()
    assert feed(connection, OPEN_1, RESET_1, frame, frame) == ""
    assert connection.counters["late-frame"] == 2
    assert feed(connection, OPEN_3) == ""
    assert connection.streams_open == 1


def test_a_withdrawn_request_is_over() -> None:
    connection = responder()
    connection.receive_data(OPEN_1 + RESET_1, 0.0)
    opened, reset = connection.events()
    assert isinstance(opened, StreamOpened)
    assert isinstance(reset, StreamReset)
    assert connection.streams_open == 0


def test_control_that_never_ends() -> None:
    piece = frames.encode(FrameType.CONTROL, 0, b"\0" + bytes(16_384))
    connection = responder()
    assert feed(connection, *[piece] * 64) == ""
    assert feed(connection, piece) == "control-too-long"


def test_a_flood_of_pings_is_answered_as_far_as_there_is_room() -> None:
    connection = responder()
    assert feed(connection, b"".join(frames.encode_ping(n, received=0) for n in range(1000))) == ""
    out = connection.data_to_send(1 << 20)
    assert out == b"".join(frames.encode_pong(n, received=20_000 + 2_000) for n in range(984, 1000))
    assert connection.counters["pong-dropped"] == 984


def test_a_peer_that_makes_us_queue_answers_without_end() -> None:
    connection = responder(Limits(streams=0, control_queue=10_000))
    wire = [frames.encode_open(n, priority=0, window=1, header=b"") for n in range(1, 2001, 2)]
    assert feed(connection, *wire) == "control-queue"
    assert len(connection.data_to_send(1 << 20)) < 1100


def test_unknown_priorities_are_bulk_and_unknown_pongs_are_counted() -> None:
    connection = responder()
    connection.receive_data(frames.encode_open(1, priority=200, window=1, header=b""), 0.0)
    [event] = connection.events()
    assert isinstance(event, StreamOpened)
    assert event.priority.name == "BULK"
    assert feed(connection, frames.encode_pong(5, received=0)) == ""
    assert connection.counters["unasked-pong"] == 1


def test_streams_beyond_the_total_get_small_windows() -> None:
    connection = responder(Limits(windows_total=600_000))
    wire = [frames.encode_open(n, priority=0, window=1, header=b"") for n in range(1, 21, 2)]
    assert feed(connection, *wire) == ""
    windows = []
    for kind, _, payload in frames.FrameDecoder().feed_untrusted(connection.data_to_send(10_000)):
        assert kind == FrameType.ACCEPT
        windows.append(frames.decode_accept_untrusted(payload)[0])
    assert windows == [262_144, 262_144, 75_712] + [16_384] * 7


def plausible() -> st.SearchStrategy[bytes]:
    """Frames that are well-formed and make any sense only by luck."""
    stream = st.integers(0, 6)
    small = st.integers(0, 300_000)
    return st.one_of(
        st.builds(lambda s, w: frames.encode_open(s, priority=1, window=w, header=b""), stream, small),
        st.builds(lambda s, w: frames.encode_accept(s, window=w, header=b""), stream, small),
        st.builds(lambda s, d: frames.data_header(s, len(d)) + d, stream, st.binary(min_size=1, max_size=99)),
        st.builds(lambda s, c, w: frames.encode_credit(s, consumed=c, window=w), stream, small, small),
        st.builds(lambda s: frames.encode(FrameType.FIN, s), stream),
        st.builds(lambda s: frames.encode_reset(s, code=1, message=""), stream),
        st.builds(lambda s: frames.encode_datagrams(s, segment_size=1, data=b"x"), stream),
        st.builds(lambda t, r, p: frames.encode_ping(t, received=r, pause=p), small, small, stream),
        st.builds(lambda t, r: frames.encode_pong(t, received=r), small, small),
        st.builds(frames.encode_ack, small),
        st.just(frames.encode(FrameType.CONTROL, 0, b"\0x")),
        st.binary(max_size=20),
    )


@given(st.lists(plausible(), max_size=30), st.data())
def test_any_frames_in_any_order_never_raise(wire: list[bytes], data: st.DataObject) -> None:
    connection = responder()
    streams = [connection.open_stream(b"", priority=data.draw(st.sampled_from([0, 1]))) for _ in range(2)]  # type: ignore[arg-type]
    for frame in wire:
        connection.receive_data(frame, 0.0)
        for event in connection.events():
            match event:
                case StreamOpened(stream) if not connection.ended:
                    if connection._streams.get(stream):
                        connection.accept(stream)
                    streams.append(stream)
                case StreamAccepted(stream) if not connection.ended:
                    connection.send_data(stream, b"hello") if connection._streams.get(stream) else None
        for stream in streams:
            connection.read(stream, 10, 0.0)
        connection.data_to_send(1000)
    held = sum(stream.receive.held for stream in connection._streams)
    assert held <= 99 * len(wire)
