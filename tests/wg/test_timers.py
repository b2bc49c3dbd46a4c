"""Each timer's rule alone, and the agenda: never late, and empty when nothing is due."""

import itertools
from collections.abc import Callable
from random import Random

from raven.keys import PublicKey
from raven.wg.constants import ERASE_AFTER_TIME
from raven.wg.timers import Agenda, PeerTimers, Timer


def timers(agenda: Agenda | None = None) -> PeerTimers:
    return PeerTimers(agenda or Agenda(), PublicKey(bytes(32)))


def test_keepalive_answers_data_that_nothing_answered() -> None:
    t = timers()
    t.messages_received(0.0, data=False)
    assert t.due(100.0) == []
    t.messages_received(100.0, data=True)
    t.messages_received(105.0, data=True)
    assert t.due(109.9) == []
    assert t.due(110.0) == [Timer.SEND_KEEPALIVE]
    t.messages_received(120.0, data=True)
    t.messages_sent(121.0, data=True)
    assert Timer.SEND_KEEPALIVE not in t.due(1000.0)


def test_new_handshake_when_data_brings_no_answer() -> None:
    t = timers()
    t.messages_sent(0.0, data=False)
    assert t.due(100.0) == []
    t.messages_sent(100.0, data=True)
    t.messages_sent(110.0, data=True)
    assert t.due(114.9) == []
    assert t.due(115.0) == [Timer.NEW_HANDSHAKE]
    t.messages_sent(200.0, data=True)
    t.messages_received(201.0, data=False)
    assert t.due(1000.0) == []


def test_jitter_delays_retransmission_and_the_next_new_handshake() -> None:
    t = timers()
    t.handshake_initiated(0.0, jitter=0.25)
    assert t.due(5.2) == []
    assert t.due(5.25) == [Timer.RETRANSMIT_HANDSHAKE]
    t.messages_sent(10.0, data=True)
    assert t.due(25.2) == []
    assert t.due(25.25) == [Timer.NEW_HANDSHAKE]
    t.handshake_initiated(30.0, jitter=0.0)
    t.handshake_completed()
    assert t.due(100.0) == []


def test_keys_are_erased_after_the_last_derivation_or_the_last_attempt() -> None:
    t = timers()
    t.keys_derived(0.0)
    t.keys_derived(100.0)
    assert t.due(ERASE_AFTER_TIME) == []
    t.handshake_given_up(200.0)
    assert t.due(100.0 + ERASE_AFTER_TIME) == [Timer.ERASE_KEYS], "giving up does not extend it"
    t.handshake_given_up(1000.0)
    assert t.due(1000.0 + ERASE_AFTER_TIME) == [Timer.ERASE_KEYS]


def test_persistent_keepalive_counts_from_the_last_message_either_way() -> None:
    t = timers()
    t.interval_configured(25)
    t.messages_sent(0.0, data=False)
    t.messages_received(20.0, data=False)
    assert t.due(44.9) == []
    assert t.due(45.0) == [Timer.PERSISTENT_KEEPALIVE]
    t.messages_sent(50.0, data=False)
    t.interval_configured(0)
    assert t.due(1000.0) == []


def test_the_agenda_is_early_but_never_late() -> None:
    """Random facts on several peers: a naive look at all deadlines agrees with what the agenda leads to."""
    random = Random(3)
    agenda = Agenda()
    peers = [PeerTimers(agenda, PublicKey(bytes([i]) * 32)) for i in range(5)]
    peers[0].interval_configured(7)
    facts: list[Callable[[PeerTimers, float], None]] = [
        lambda t, now: t.messages_sent(now, data=True),
        lambda t, now: t.messages_sent(now, data=False),
        lambda t, now: t.messages_received(now, data=True),
        lambda t, now: t.messages_received(now, data=False),
        lambda t, now: t.handshake_initiated(now, jitter=0.2),
        lambda t, now: t.handshake_completed(),
        lambda t, now: t.keys_derived(now),
    ]
    now = 0.0
    visits = 0
    for _ in itertools.repeat(None, 3000):
        now += random.expovariate(2)
        when = agenda.next()
        if when is not None and when <= now:
            for t in agenda.pop_due(now):
                visits += 1
                t.due(now)
                t.reschedule()
        for t in peers:
            assert t.due(now) == [], "something was due and the agenda did not say so"
        when = agenda.next()
        assert when is None or when > now
        random.choice(facts)(random.choice(peers), now)
    assert visits < 3000
    assert len(agenda._heap) <= 64, "overtaken entries must not pile up"


def test_nothing_fires_after_clear() -> None:
    agenda = Agenda()
    t = timers(agenda)
    t.messages_sent(0.0, data=True)
    t.keys_derived(0.0)
    t.clear()
    assert agenda.next() is None
    assert agenda.pop_due(1e9) == []
    assert t.due(1e9) == []
