"""Numbers of streams: against the rule that they are given in order and without gaps."""

import pytest

from raven.errors import PeerError
from raven.mux.codes import Priority
from raven.mux.events import StreamId
from raven.mux.flow import WindowBudget
from raven.mux.table import LAST_STREAM, StreamTable


def table(*, initiator: bool = True) -> StreamTable:
    budget = WindowBudget(1_000_000, least=1000)
    return StreamTable(initiator=initiator, budget=budget, window_start=1000, window_max=4000)


def test_each_end_has_its_own_numbers() -> None:
    assert [table().add_ours(Priority.BULK).id] == [1]
    both = table(initiator=False)
    assert [both.add_ours(Priority.BULK).id for _ in range(3)] == [2, 4, 6]
    for number in (1, 3):
        both.take_number_untrusted(StreamId(number))
        both.add_theirs(StreamId(number), Priority.BULK)
    assert (len(both), both.ours, both.theirs) == (5, 3, 2)
    assert [stream.id for stream in both] == [2, 4, 6, 1, 3]


@pytest.mark.parametrize("number", [0, 1, 2, 5, 7, LAST_STREAM])
def test_their_numbers_have_no_gaps(number: int) -> None:
    streams = table(initiator=False)
    streams.take_number_untrusted(StreamId(1))
    with pytest.raises(PeerError) as raised:
        streams.take_number_untrusted(StreamId(number))
    assert raised.value.reason == "open-out-of-order"
    streams.take_number_untrusted(StreamId(3))


def test_over_is_not_the_same_as_never() -> None:
    streams = table()
    mine = streams.add_ours(Priority.BULK)
    streams.take_number_untrusted(StreamId(2))  # refused at once: it never gets into the table
    assert streams.get_untrusted(mine.id, "DATA") is mine
    streams.remove(mine)
    assert streams.get_untrusted(mine.id, "DATA") is None
    assert streams.get_untrusted(StreamId(2), "DATA") is None
    for number in (3, 4, LAST_STREAM, LAST_STREAM - 1):
        with pytest.raises(PeerError, match=f"DATA frame for stream {number}, which was never opened"):
            streams.get_untrusted(StreamId(number), "DATA")


def test_numbers_run_out() -> None:
    streams = table()
    streams._next_ours = LAST_STREAM - 2
    assert [streams.add_ours(Priority.BULK).id for _ in range(2)] == [LAST_STREAM - 2, LAST_STREAM]
    assert streams.used_up
