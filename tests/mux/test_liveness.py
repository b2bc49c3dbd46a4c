"""Who is pinged when, and who is given up when; in virtual time."""

import pytest

from raven.mux.liveness import OUTSTANDING_MAX, Liveness, Verdict


def silence(liveness: Liveness, *, start: float) -> tuple[list[float], float]:
    """Nobody answers: the times of the pings and of the verdict."""
    pings = list[float]()
    for _ in range(100):
        now = liveness.next_timeout()
        match liveness.check(now):
            case Verdict.PING:
                pings.append(now - start)
                liveness.ping_sent(now)
            case Verdict.DEAD:
                return pings, now - start
            case Verdict.WAIT:
                raise AssertionError("the timer came for nothing")
    raise AssertionError("no verdict")


def test_a_dead_path_is_noticed_in_3_seconds_while_someone_waits() -> None:
    liveness = Liveness(initiator=True, now=100.0)
    liveness.active = True
    pings, verdict = silence(liveness, start=100.0)
    assert pings == [1.0]
    assert verdict == pytest.approx(2.8)


def test_idle_pings_are_rare_and_the_initiators() -> None:
    assert silence(Liveness(initiator=True, now=100.0), start=100.0) == ([20.0], 30.0)
    assert silence(Liveness(initiator=False, now=100.0), start=100.0) == ([25.0], 35.0)


def test_any_sign_of_life_is_an_answer() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    liveness.ping_sent(1.0)
    liveness.heard(1, 2.0)
    assert liveness.check(2.9) is Verdict.WAIT
    assert liveness.next_timeout() == 3.0


def test_a_stream_on_a_connection_long_silent_asks_at_once() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    assert liveness.next_timeout() < 15.0
    liveness.ping_sent(15.0)
    assert liveness.next_timeout() == 16.8


def test_our_own_sleep_is_not_the_peers_silence() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    liveness.ping_sent(1.0)
    assert liveness.check(3600.0) is Verdict.PING
    liveness.ping_sent(3600.0)
    assert liveness.check(3601.0) is Verdict.WAIT
    assert liveness.check(3601.8) is Verdict.DEAD


def test_round_trips_are_smoothed() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    assert liveness.rtt is None
    assert liveness.pong_received(liveness.ping_sent(0.0), 0.1) == 0.1
    assert liveness.rtt == 0.1
    liveness.pong_received(liveness.ping_sent(1.0), 1.9)
    assert liveness.rtt == pytest.approx(0.2)


def test_a_slow_path_gets_more_time() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    liveness.pong_received(liveness.ping_sent(0.0), 1.0)
    liveness.heard(1, 1.0)
    liveness.ping_sent(2.0)
    assert liveness.next_timeout() == 6.0


def test_pongs_nobody_waits_for() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    assert liveness.pong_received(77, 1.0) is None
    first = liveness.ping_sent(0.0)
    for _ in range(OUTSTANDING_MAX):
        liveness.ping_sent(0.0)
    assert liveness.pong_received(first, 1.0) is None


def test_a_busy_path_is_measured_again_each_second() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.heard(1 << 20, 0.9)
    assert not liveness.wants_sample(0.9)
    assert liveness.wants_sample(1.0)
    liveness.ping_sent(1.0)
    liveness.heard(1000, 3.0)
    assert not liveness.wants_sample(3.0)
