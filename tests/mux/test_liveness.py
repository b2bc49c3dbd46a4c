"""Who is pinged when, and who is given up when; in virtual time."""

import pytest

from raven.mux.keepalive import PAUSE_FIRST, Keepalive
from raven.mux.liveness import (
    IDLE_TIMEOUT,
    OUTSTANDING_MAX,
    PEER_PAUSE_MAX,
    RESPONDER_EXTRA,
    Liveness,
    Verdict,
)


def silence(liveness: Liveness, *, start: float) -> tuple[list[float], float]:
    """Nobody answers: the times of the pings and of the verdict."""
    pings = list[float]()
    for _ in range(100):
        now = liveness.next_timeout()
        match liveness.check(now):
            case Verdict.PING:
                pings.append(now - start)
                liveness.ping_sent(now, 0)
            case Verdict.DEAD:
                return pings, now - start
            case Verdict.WAIT:
                raise AssertionError("the timer came for nothing")
    raise AssertionError("no verdict")


@pytest.mark.parametrize("initiator", [True, False])
def test_a_dead_path_is_noticed_in_3_seconds_while_someone_waits(initiator: bool) -> None:
    liveness = Liveness(initiator=initiator, now=100.0)
    liveness.active = True
    pings, verdict = silence(liveness, start=100.0)
    assert len(pings) == 1
    assert verdict < 2.8


def test_idle_pings_are_rare_and_the_initiators() -> None:
    assert silence(Liveness(initiator=True, now=100.0), start=100.0) == (
        [PAUSE_FIRST],
        PAUSE_FIRST + IDLE_TIMEOUT,
    )
    responder = Liveness(initiator=False, now=100.0)
    responder.paused(40)
    assert silence(responder, start=100.0) == ([40 + RESPONDER_EXTRA], 40 + RESPONDER_EXTRA + IDLE_TIMEOUT)


def test_a_peer_cannot_ask_to_be_left_alone_for_hours() -> None:
    responder = Liveness(initiator=False, now=100.0)
    responder.paused(0xFFFF)
    _, verdict = silence(responder, start=100.0)
    assert verdict == PEER_PAUSE_MAX + RESPONDER_EXTRA + IDLE_TIMEOUT


def test_being_heard_is_an_answer_and_hearing_is_none() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    liveness.ping_sent(1.0, 500)
    for tenth in range(11, 26):
        liveness.heard(1000, tenth / 10)
    assert liveness.check(2.6) is Verdict.DEAD
    liveness.receipt(501, 2.6)
    assert liveness.check(2.6) is Verdict.PING


def test_receipts_for_older_bytes_only_put_it_off() -> None:
    """A full queue is no dead path; but the peer's next ping, which knows no more, saves no dead one."""
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    liveness.ping_sent(1.0, 500)
    liveness.receipt(400, 2.0)
    assert liveness.check(2.6) is Verdict.WAIT
    assert liveness.check(3.6) is Verdict.DEAD


def test_the_initiator_asks_every_second_although_it_hears_the_other_end() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    liveness.heard(1, 0.9)
    assert liveness.check(1.0) is Verdict.PING
    responder = Liveness(initiator=False, now=0.0)
    responder.active = True
    responder.heard(1, 0.9)
    assert responder.next_timeout() == pytest.approx(2.0)


def test_a_stream_on_a_connection_long_silent_asks_at_once() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    assert liveness.next_timeout() < 15.0
    liveness.ping_sent(15.0, 0)
    assert liveness.next_timeout() == 16.6


def test_our_own_sleep_is_not_the_peers_silence() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    liveness.ping_sent(1.0, 0)
    assert liveness.check(3600.0) is Verdict.PING
    liveness.ping_sent(3600.0, 0)
    assert liveness.check(3601.0) is Verdict.WAIT
    assert liveness.check(3601.7) is Verdict.DEAD


def test_round_trips_are_smoothed() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    assert liveness.rtt is None
    assert liveness.pong_received(liveness.ping_sent(0.0, 0), 0.1) == 0.1
    assert liveness.rtt == 0.1
    liveness.pong_received(liveness.ping_sent(1.0, 0), 1.9)
    assert liveness.rtt == pytest.approx(0.2)


def test_a_ping_that_waited_for_the_next_transport_says_nothing_of_the_path() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    token = liveness.ping_sent(0.0, 0)
    liveness.transport_lost()
    liveness.transport_came(20.0)
    assert liveness.pong_received(token, 21.0) == 21.0
    assert liveness.rtt is None
    liveness.pong_received(liveness.ping_sent(21.0, 0), 21.1)
    assert liveness.rtt == pytest.approx(0.1)


def test_a_slow_path_gets_more_time() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    liveness.active = True
    liveness.pong_received(liveness.ping_sent(0.0, 0), 1.0)
    liveness.receipt(1, 1.0)
    liveness.ping_sent(2.0, 1)
    assert liveness.next_timeout() == 6.0


def test_pongs_nobody_waits_for() -> None:
    liveness = Liveness(initiator=True, now=0.0)
    assert liveness.pong_received(77, 1.0) is None
    first = liveness.ping_sent(0.0, 0)
    for _ in range(OUTSTANDING_MAX):
        liveness.ping_sent(0.0, 0)
    assert liveness.pong_received(first, 1.0) is None


def test_a_busy_path_is_measured_again_each_second() -> None:
    liveness = Liveness(initiator=False, now=0.0)
    liveness.heard(1 << 20, 0.9)
    assert not liveness.wants_sample(0.9)
    assert liveness.wants_sample(1.0)
    liveness.ping_sent(1.0, 0)
    liveness.heard(1000, 3.0)
    assert not liveness.wants_sample(3.0)


def test_idle_silences_teach_the_keepalive() -> None:
    keepalive = Keepalive()
    liveness = Liveness(initiator=True, now=0.0, keepalive=keepalive)
    now = 0.0
    for _ in range(2):
        now = liveness.next_timeout()
        liveness.ping_sent(now, 0)
        liveness.receipt(1, now)
        liveness.heard(1, now)
    assert keepalive.pause > PAUSE_FIRST
    assert liveness.pause >= keepalive.pause
    longer = keepalive.pause
    now = liveness.next_timeout()
    liveness.ping_sent(now, 1)
    liveness.transport_lost()
    assert keepalive.pause == longer / 2
