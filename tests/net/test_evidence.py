"""Evidence of a peer in virtual time: what an idle day asks, and how soon a dead path is asked about."""

import pytest

from raven.keys import PublicKey
from raven.net.evidence import ASK_INTERVAL, ROUND_TRIP_MAX, RTT_MAX, SPOKE_SILENCE_MAX, Evidence
from raven.wg.configuration import PeerState

LOOK = 10.0


class Peer:
    """A peer's counters and handshakes, looked at every ten seconds; its probes answered or not."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.now = 0.0
        self.alive = True
        self.rx = self.tx = 0
        self.handshake: float | None = None
        self.asked: list[float] = []

    def look(self, *, rx: int = 0, tx: int = 0) -> None:
        """Ten seconds in which that many bytes moved; asks as often as it is due, second by second."""
        for _ in range(int(LOOK)):
            self.now += 1.0
            if self.evidence.due(self.now):
                self.asked.append(self.now)
                if self.alive:
                    self.evidence.was_answered(0.01, self.now)
                    self.rx, self.tx = self.rx + 96, self.tx + 96
                else:
                    self.evidence.was_not("no answer", self.now)
        self.rx, self.tx = self.rx + rx, self.tx + tx
        state = PeerState(public_key=PublicKey(bytes(32)), rx_bytes=self.rx, tx_bytes=self.tx)
        age = None if self.handshake is None else self.now - self.handshake
        self.evidence.looked(state, handshake_age=age, now=self.now)

    def idle(self, seconds: float) -> None:
        """A spoke's keepalives every 25 s, and its handshakes."""
        end = self.now + seconds
        while self.now < end:
            if self.handshake is None or self.now - self.handshake >= 140:
                self.handshake = self.now
            self.look(rx=32 if self.now % 25 < LOOK else 0)


@pytest.fixture
def peer() -> Peer:
    made = Peer(Evidence())
    made.idle(60)
    made.asked.clear()
    return made


def test_an_idle_day_asks_for_the_round_trip_time_and_nothing_else(peer: Peer) -> None:
    peer.idle(86_400)
    assert 86_400 / RTT_MAX * 0.9 <= len(peer.asked) <= 86_400 / RTT_MAX + 1


def test_a_spoke_that_falls_silent_is_asked_soon_then_often_then_now_and_then(peer: Peer) -> None:
    peer.alive = False
    began = peer.now
    while peer.now < began + 300:
        peer.look()
    assert peer.asked[0] - began <= SPOKE_SILENCE_MAX + 1
    assert peer.asked[1] - peer.asked[0] <= 2
    assert peer.asked[-1] - peer.asked[-2] == ASK_INTERVAL
    assert peer.evidence.failure == "no answer"
    assert peer.evidence.age(peer.now) == pytest.approx(peer.now - (peer.evidence.proven or 0))


def test_whoever_sends_in_vain_has_it_asked_at_the_next_look(peer: Peer) -> None:
    peer.alive = False
    began = peer.now
    peer.look(tx=128)
    peer.look()
    assert peer.asked[0] - began <= LOOK + 1


@pytest.mark.parametrize("tx", [32, 148, 180, 296, 328])
def test_what_a_device_sends_of_itself_waits_for_nothing(peer: Peer, tx: int) -> None:
    peer.look(tx=tx)
    peer.look()
    assert peer.asked == []


def test_one_way_traffic_that_is_acknowledged_asks_nothing(peer: Peer) -> None:
    for _ in range(5):
        peer.look(tx=100_000, rx=32)
    assert peer.asked == []


def test_a_path_that_lost_one_direction_is_asked_although_keepalives_come(peer: Peer) -> None:
    peer.alive = False
    began = peer.now
    while peer.now < began + ROUND_TRIP_MAX + LOOK:
        peer.look(rx=32)
    assert peer.asked
    age = peer.evidence.age(peer.now)
    assert age is not None
    assert age > ROUND_TRIP_MAX  # what comes in no longer counts


def test_bytes_that_were_counted_before_the_first_look_prove_nothing() -> None:
    evidence = Evidence()
    state = PeerState(public_key=PublicKey(bytes(32)), rx_bytes=5000)
    evidence.looked(state, handshake_age=170.0, now=1000.0)
    assert evidence.age(1000.0) == 170.0
    evidence.lost_device()
    evidence.looked(state, handshake_age=None, now=1010.0)
    assert evidence.age(1010.0) == 180.0


def test_who_comes_back_is_asked_soon(peer: Peer) -> None:
    peer.evidence.came(peer.now)
    peer.look(rx=32)
    assert len(peer.asked) == 1


def test_a_hub_may_be_silent_between_two_handshakes() -> None:
    peer = Peer(Evidence(silence_max=ROUND_TRIP_MAX))
    peer.handshake = 0.0
    peer.look(rx=92)
    asked = len(peer.asked)
    for _ in range(13):
        peer.look()
    assert len(peer.asked) == asked
    for _ in range(4):
        peer.look()
    assert len(peer.asked) == asked + 1
