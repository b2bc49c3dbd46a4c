"""The pause between pings against NATs that forget after a time of their own."""

import pytest

from raven.mux.keepalive import FORGIVEN, PAUSE_FIRST, PAUSE_LEAST, PAUSE_MOST, Keepalive


def live(keepalive: Keepalive, forgets: float, pings: int) -> int:
    """So many pings through a NAT that forgets after so many seconds; how often it did."""
    died = 0
    for _ in range(pings):
        if keepalive.pause < forgets:
            keepalive.survived(keepalive.pause)
        else:
            died += 1
            keepalive.died(keepalive.pause)
    return died


def test_a_patient_nat_is_asked_rarely() -> None:
    keepalive = Keepalive()
    assert live(keepalive, forgets=300.0, pings=20) == 0
    assert keepalive.pause == PAUSE_MOST


@pytest.mark.parametrize("forgets", [13.0, 20.0, 30.0, 40.0, 49.0])
def test_the_pause_settles_below_what_the_nat_forgets_after(forgets: float) -> None:
    keepalive = Keepalive()
    assert live(keepalive, forgets, pings=50) <= 2
    assert 0.5 * forgets < keepalive.pause < forgets
    assert live(keepalive, forgets, pings=FORGIVEN - 60) == 0


def test_an_outage_is_forgiven() -> None:
    keepalive = Keepalive()
    keepalive.died(PAUSE_FIRST)
    assert keepalive.pause == PAUSE_FIRST / 2
    live(keepalive, forgets=300.0, pings=FORGIVEN + 20)
    assert keepalive.pause == PAUSE_MOST


def test_it_never_asks_without_end_and_learns_nothing_from_a_busy_path() -> None:
    keepalive = Keepalive()
    for _ in range(10):
        keepalive.died(keepalive.pause)
    assert keepalive.pause == PAUSE_LEAST
    keepalive.died(1.0)  # not silence killed it
    before = keepalive.pause
    for _ in range(10):
        keepalive.survived(1.0)
    assert keepalive.pause == before
