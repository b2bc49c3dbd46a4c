"""Many streams, random verbs, flushes, cuts and lost transports, against one byte string a direction.

Whatever happens: bytes come out as they went in, in order; what an end holds stays within its limits; and
when everything has ended nothing is left, neither streams nor spent budget.
"""

import random
from dataclasses import dataclass, field

import pytest

from raven.errors import PeerError
from raven.mux.codes import Priority, RefusalCode, ResetCode
from raven.mux.connection import Connection, Limits
from raven.mux.events import (
    ConnectionEnded,
    ControlReceived,
    Event,
    StreamAccepted,
    StreamId,
    StreamOpened,
    StreamReset,
)
from raven.mux.flow import WAITING_MAX
from raven.mux.resume import JOINED_MAX

LIMITS = Limits(
    streams=20,
    window_start=20_000,
    window_max=80_000,
    windows_total=300_000,
    window_least=2_000,
    control_queue=100_000,
    grace=10.0,
)


@dataclass
class Half:
    """One end of one stream, as the model sees it."""

    written: bytearray = field(default_factory=bytearray)
    read: bytearray = field(default_factory=bytearray)
    answered: bool = False
    wrote_eof: bool = False
    read_eof: bool = False
    closed: bool = False  # by this end's driver, in any way
    broken: bool = False  # by the other end


class Driver:
    """One end: a connection, the model of its streams, and the wire towards the other."""

    def __init__(self, rng: random.Random, *, initiator: bool) -> None:
        self.rng = rng
        self.connection = Connection(initiator=initiator, now=0.0, limits=LIMITS)
        self.halves: dict[StreamId, Half] = {}
        self.offered: list[StreamId] = []
        self.wire = bytearray()
        self.told: list[bytes] = []  # control messages that went, and that came
        self.heard: list[bytes] = []
        self.now = 0.0

    def usable(self) -> list[StreamId]:
        return [s for s, half in self.halves.items() if half.answered and not half.closed]

    def step(self) -> None:
        """One verb of the driver's choice."""
        connection, rng = self.connection, self.rng
        choice = rng.randrange(20)
        usable = self.usable()
        if choice == 0 and connection.why_not_open() is None:
            stream = connection.open_stream(rng.randbytes(5), priority=rng.choice(list(Priority)))
            self.halves[stream] = Half()
        elif choice <= 2 and self.offered:
            stream = self.offered.pop(rng.randrange(len(self.offered)))
            if rng.random() < 0.1:
                connection.reset(stream, RefusalCode.BUSY, "no")
                self.halves[stream].closed = True
            else:
                connection.accept(stream)
                self.halves[stream].answered = True
        elif choice == 3:
            connection.ping(self.now)
            message = rng.randbytes(rng.choice([0, 100, 20_000]))
            if connection.send_control(message):
                self.told.append(message)
        elif choice == 4 and usable and rng.random() < 0.3:
            self.end(rng.choice(usable))
        elif choice <= 10 and usable:
            self.write(rng.choice(usable), rng.choice([1, 100, 5_000, 50_000]))
        elif usable:
            self.read(rng.choice(usable), rng.choice([1, 1_000, 100_000]))

    def end(self, stream: StreamId) -> None:
        half = self.halves[stream]
        match self.rng.randrange(4):
            case 0:
                self.connection.close(stream)
                half.closed = True
            case 1:
                self.connection.reset(stream, ResetCode.ABORTED, "crash")
                half.closed = True
            case _:
                self.connection.send_eof(stream)
                half.wrote_eof = True

    def write(self, stream: StreamId, size: int) -> None:
        half = self.halves[stream]
        if not (half.wrote_eof or half.broken):
            data = self.rng.randbytes(size)
            half.written += data[: self.connection.send_data(stream, data)]

    def read(self, stream: StreamId, most: int) -> None:
        half = self.halves[stream]
        data = self.connection.read(stream, most, self.now)
        if data is not None:
            assert len(data) <= most
            half.read += data
            half.read_eof = half.read_eof or not data

    def flush(self, limit: int) -> None:
        self.wire += self.connection.data_to_send(limit)

    def feed(self, data: bytes) -> None:
        self.connection.receive_data(data, self.now)
        for event in self.connection.events():
            self.on_event(event)

    def on_event(self, event: Event) -> None:
        match event:
            case StreamOpened(stream):
                self.halves[stream] = Half()
                self.offered.append(stream)
            case StreamAccepted(stream):
                self.halves[stream].answered = True
            case StreamReset(stream):
                self.halves[stream].broken = True
                if stream in self.offered:
                    self.offered.remove(stream)
                    self.halves[stream].closed = True
            case ControlReceived(data):
                self.heard.append(data)
            case ConnectionEnded(error):
                raise AssertionError(error)

    def check_bounds(self) -> None:
        streams = self.connection._streams
        assert len(streams) <= 2 * LIMITS.streams
        held = 0
        for stream in streams:
            assert stream.receive.held <= stream.receive.window <= LIMITS.window_max
            assert stream.send.written - stream.send.sent <= WAITING_MAX
            held += stream.receive.held
        assert held <= LIMITS.windows_total + 2 * LIMITS.streams * LIMITS.window_least
        assert self.connection._outbox.control_size <= LIMITS.control_queue
        replay = self.connection._replay
        kept = sum(map(len, replay._chunks))
        assert (
            kept - (replay.sent - replay.confirmed) <= JOINED_MAX + 300_000
        )  # what one chunk may hold on to


def cut(ends: tuple[Driver, Driver], rng: random.Random) -> None:
    """The transport breaks with bytes under way; sooner or later both ends find each other on another."""
    for end in ends:
        end.wire.clear()
        end.connection.transport_lost(PeerError("cut", "a middlebox"), end.now)
    for _ in range(rng.randrange(30)):  # meanwhile their programs go on
        rng.choice(ends).step()
    left, right = ends
    positions = left.connection.received, right.connection.received
    left.connection.transport_came(positions[1], left.now)
    right.connection.transport_came(positions[0], right.now)


@pytest.mark.parametrize("cuts", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_random_traffic(seed: int, cuts: bool) -> None:
    rng = random.Random(seed)
    ends = (Driver(rng, initiator=True), Driver(rng, initiator=False))

    def carry(source: Driver, sink: Driver, most: int) -> None:
        piece = bytes(source.wire[:most])
        del source.wire[:most]
        sink.feed(piece)

    for step in range(1500):
        driver = rng.choice(ends)
        other = ends[driver is ends[0]]
        driver.step()
        if rng.random() < 0.5:
            driver.flush(rng.choice([1, 1_000, 16_384, 100_000]))
        if rng.random() < 0.5:
            carry(driver, other, rng.choice([1, 7, 1_000, 100_000]))
        driver.check_bounds()
        if cuts and rng.random() < 0.02:
            cut(ends, rng)
        if step % 50 == 0:
            for end in ends:
                end.now += 0.01
                end.connection.handle_timeout(end.now)

    # Everybody says the end; everything must come to rest.
    quiet = 0
    while quiet < 2:
        quiet += 1
        for driver, other in (ends, ends[::-1]):
            for stream in [*driver.offered]:
                driver.connection.accept(stream)
                driver.halves[stream].answered = True
            driver.offered.clear()
            for stream in driver.usable():
                half = driver.halves[stream]
                if not half.wrote_eof and not half.broken:
                    driver.connection.send_eof(stream)
                    half.wrote_eof = True
                driver.read(stream, 1 << 20)
            driver.flush(1 << 20)
            if driver.wire:
                quiet = 0
            carry(driver, other, 1 << 20)
    for end in ends:
        for half in end.halves.values():
            if half.broken and not half.closed:
                continue
            assert half.closed or half.read_eof
        assert not end.connection._outbox
    compare(*ends)
    assert ends[0].heard == ends[1].told
    assert ends[1].heard == ends[0].told
    for end in ends:
        for stream in end.halves:
            end.connection.close(stream)
        assert end.connection.streams_open == 0
        assert end.connection._streams._budget._left == LIMITS.windows_total


def compare(left: Driver, right: Driver) -> None:
    """Bytes in are bytes out: all of them to a reader that saw the end, a prefix otherwise."""
    carried = 0
    for stream in left.halves.keys() | right.halves.keys():
        mine, theirs = left.halves.get(stream), right.halves.get(stream)
        if mine is None or theirs is None:  # one too many: its OPEN was answered before any driver saw it
            assert (mine or theirs or Half()).broken
            continue
        for writer, reader in ((mine, theirs), (theirs, mine)):
            assert writer.written[: len(reader.read)] == reader.read
            if reader.read_eof:
                assert reader.read == writer.written
            carried += len(reader.read)
    assert carried > 100_000
