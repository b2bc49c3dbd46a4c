"""Turns: against the rule that within a class everyone gets the same."""

from collections import Counter

from raven.mux.codes import Priority
from raven.mux.events import StreamId
from raven.mux.scheduler import BURST, QUANTUM, Scheduler


def turns(scheduler: Scheduler, count: int, *, size: int = QUANTUM) -> list[int]:
    """Who sends in the next turns when nobody runs dry."""
    out = []
    for _ in range(count):
        stream, _ = scheduler.next()
        out.append(int(stream))
        scheduler.sent(size, dry=False)
    return out


def test_interactive_before_bulk() -> None:
    scheduler = Scheduler()
    scheduler.wake(StreamId(1), Priority.BULK)
    scheduler.wake(StreamId(3), Priority.INTERACTIVE)
    assert scheduler.next() == (3, False)
    scheduler.sent(100, dry=True)
    assert scheduler.next() == (1, True)
    scheduler.sent(100, dry=True)
    assert not scheduler


def test_everyone_in_a_class_in_turn() -> None:
    scheduler = Scheduler()
    for stream in (1, 3, 5):
        scheduler.wake(StreamId(stream), Priority.BULK)
        scheduler.wake(StreamId(stream), Priority.BULK)  # waiting already: no second place
    assert turns(scheduler, 9) == [1, 3, 5] * 3


def test_an_interactive_stream_that_never_stops_shares_with_bulk() -> None:
    scheduler = Scheduler()
    scheduler.wake(StreamId(1), Priority.BULK)
    scheduler.wake(StreamId(3), Priority.INTERACTIVE)
    assert turns(scheduler, BURST // QUANTUM) == [3] * (BURST // QUANTUM)
    shared = Counter(turns(scheduler, 100))
    assert shared[1] == shared[3] == 50


def test_running_dry_makes_it_interactive_again() -> None:
    scheduler = Scheduler()
    scheduler.wake(StreamId(1), Priority.BULK)
    scheduler.wake(StreamId(3), Priority.INTERACTIVE)
    turns(scheduler, BURST // QUANTUM)
    while scheduler.next()[0] != 3:
        scheduler.sent(QUANTUM, dry=False)
    scheduler.sent(1, dry=True)
    scheduler.wake(StreamId(3), Priority.INTERACTIVE)
    assert scheduler.next()[0] == 3


def test_a_stream_that_ends_loses_its_place() -> None:
    scheduler = Scheduler()
    for stream in (1, 3, 5):
        scheduler.wake(StreamId(stream), Priority.INTERACTIVE)
    scheduler.forget(StreamId(3))
    scheduler.forget(StreamId(7))
    assert turns(scheduler, 4) == [1, 5, 1, 5]
