"""Runs that are lost where single datagrams pass, alone and between two devices in virtual time."""

from random import Random

import pytest

from raven.wg.configuration import PeerChange
from raven.wg.device import Transmit
from raven.wg.events import RunsLost
from raven.wg.inband import Probe
from raven.wg.run_check import MISSES, PAUSE, TRIES_MAX, WAIT, RunCheck
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair
from tests.wg.superpackets import superpacket

A4, B4 = "10.0.0.1", "10.0.0.2"


def cooperating(seed: int = 0) -> tuple[Net, Host, Host]:
    net, a, b = pair(seed)
    for one, other in ((a, b), (b, a)):
        one.configure(PeerChange(public_key=other.public_key, probes=True))
    a.send([packet(A4, B4)])
    net.run(1)
    net.sent.clear()
    return net, a, b


def lose_runs(host: Host) -> None:
    """What a device sends in one call, more than one datagram, goes nowhere."""
    real = host.device.transmits

    def transmits() -> list[Transmit]:
        return [one for one in real() if len(one.data) <= one.segment_size]

    host.device.transmits = transmits  # type: ignore[method-assign]


def use(net: Net, host: Host, seconds: float, *, answers: Host | None = None) -> None:
    """Runs of two large packets, ten a second."""
    for _ in range(int(10 * seconds)):
        host.send([packet(A4, B4, 1400), packet(A4, B4, 1400)])
        if answers:
            answers.send([packet(B4, A4)])
        net.run(0.1)


def told(host: Host) -> list[RunsLost]:
    return [event for event in host.events if isinstance(event, RunsLost)]


def probes(net: Net, host: Host) -> int:
    """Datagrams of the link's whole MTU: packets are shorter here."""
    return sum(len(data) == 1452 and source == host.endpoint for _, source, _, data in net.sent)


def test_a_path_that_loses_runs_is_found_out() -> None:
    net, a, b = cooperating()
    lose_runs(a)
    use(net, a, (MISSES - 2) * WAIT)
    assert told(a) == []
    use(net, a, 4 * WAIT)
    assert told(a) == [RunsLost(b.public_key, b.endpoint)]
    assert told(b) == []


def test_superframes_are_runs_as_well() -> None:
    net, a, b = cooperating()
    for one, other in ((a, b), (b, a)):
        one.configure(PeerChange(public_key=other.public_key, superframes="aes256gcm"))
    lose_runs(a)
    for _ in range(600):
        if not a.send_superpacket(superpacket(segments=3)):
            a.send([packet(A4, B4, 1400), packet(A4, B4, 1400)])
        net.run(0.05)
    assert told(a) == [RunsLost(b.public_key, b.endpoint)]


def test_a_good_path_costs_four_datagrams_a_minute_and_an_idle_one_none() -> None:
    net, a, b = cooperating()
    net.run(300)
    a.send([packet(A4, B4, 1400)])
    net.run(300)
    a.send([packet(A4, B4, 100), packet(A4, B4, 100)])
    before = probes(net, a)  # of the path's MTU, after the single large packet
    net.run(300)
    assert probes(net, a) == before
    net.sent.clear()
    use(net, a, PAUSE - 5, answers=b)
    assert 4 < probes(net, a) <= 4 + 4, "and one each 15 seconds of the path's MTU"
    assert told(a) == []


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.3, 0.6])
def test_loss_alone_condemns_no_run(loss: float) -> None:
    for seed in range(2):
        net, a, _ = cooperating(seed)
        net.loss = loss
        use(net, a, 3 * PAUSE)
        assert told(a) == []


def test_a_peer_that_answers_nothing_any_more_is_no_lost_run() -> None:
    net, a, b = cooperating()
    net.tap = lambda source, *_: source != b.endpoint
    use(net, a, 60)
    assert told(a) == []


def test_a_plain_peer_gets_no_probes() -> None:
    net, a, b = pair()
    use(net, a, 60)
    assert b.drops() == {}
    assert probes(net, a) == 0


def test_a_peer_that_moves_is_judged_anew() -> None:
    net, a, b = cooperating()
    lose_runs(a)
    use(net, a, (MISSES - 3) * WAIT)
    a.configure(PeerChange(public_key=b.public_key, endpoint=b.endpoint._replace(host="198.51.100.1")))
    b.endpoint = b.endpoint._replace(host="198.51.100.1")
    use(net, a, (MISSES - 2) * WAIT)
    assert told(a) == []
    use(net, a, 10 * WAIT)
    assert told(a) == [RunsLost(b.public_key, b.endpoint)]


def model(answered: list[set[int]]) -> str:
    """What is to be said of tries in which these numbers were answered, slowly."""
    misses = 0
    for numbers in answered:
        if {0, 1} <= numbers:
            return "good"
        misses += {2, 3} <= numbers
        if misses == MISSES:
            return "lost"
    return "open"


def test_any_answers_are_judged_as_by_the_model() -> None:
    random = Random(3)
    seen = set()
    for _ in range(300):
        chance = random.choice([0.2, 0.6, 0.95]), random.choice([0.02, 0.3, 0.6])
        tries = [
            {n for n in range(4) if random.random() < chance[n < 2]} for _ in range(random.randrange(1, 24))
        ]
        check, now, said = RunCheck(), 5.0, "open"
        for token, numbers in enumerate(tries):
            (first, second), (third,), (fourth,) = check.ask(1420, token << 8 | 0xFF, now)
            for number in numbers:
                check.answered((first, second, third, fourth)[number])
                check.answered(Probe(1420, token << 8 ^ 1 << 40))
            now += WAIT
            if check.judge(now):
                said = "lost"
            elif check.due > now:
                said = "good"
            if said != "open":
                assert check.due == now + PAUSE
                assert check.ask(1420, 7, now) == []
                break
        assert said == model(tries)
        seen.add(said)
    assert seen == {"good", "lost", "open"}


def test_what_proves_nothing_ends_too() -> None:
    check, now = RunCheck(), 0.0
    for _ in range(TRIES_MAX):
        assert not check.judge(now)
        assert check.ask(1420, 0, now)
        now += WAIT
    assert not check.judge(now)
    assert check.due == now + PAUSE


def test_answers_come_before_anything_was_asked() -> None:
    check = RunCheck()
    check.answered(Probe(1420, 0))
    assert not check.judge(0.0)
