"""A flood of handshakes: cookies are asked for, honest peers get through, sources are limited."""

from raven.wg.constants import REKEY_TIMEOUT
from raven.wg.cookie import MacGenerator
from raven.wg.endpoint import Endpoint
from raven.wg.events import HandshakeCompleted
from raven.wg.messages import COOKIE_REPLY_LEN, CookieReply, Initiation
from raven.wg.ratelimiter import LOAD_BURST, SOURCE_BURST
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair

A4, B4 = "10.0.0.1", "10.0.0.2"
ATTACKER = Endpoint("198.51.100.66", 6)


def flood(net: Net, victim: Host, count: int, *, source: Endpoint = ATTACKER) -> list[bytes]:
    """Initiations with a valid mac1 and nothing else; returns the answers."""
    generator = MacGenerator(victim.public_key)
    before = len(net.sent)
    for _ in range(count):
        body = Initiation(
            net.random.getrandbits(32),
            net.random.randbytes(32),
            net.random.randbytes(48),
            net.random.randbytes(28),
        ).encode()
        victim.receive([generator.add_macs(body, net.now)], source)
    return [data for _, _, destination, data in net.sent[before:] if destination == source]


def test_cookies_are_asked_for_under_load_only() -> None:
    net, _, b = pair()
    assert flood(net, b, int(LOAD_BURST)) == []
    answers = flood(net, b, 100)
    assert len(answers) == 100
    assert {len(answer) for answer in answers} == {COOKIE_REPLY_LEN}, "shorter than what it answers"
    net.run(2)
    assert flood(net, b, 10) == []
    assert b.drops()["cookie-sent"] == 100
    assert b.drops()["authentication"] == LOAD_BURST + 10


def test_an_honest_peer_gets_through_with_a_cookie() -> None:
    net, a, b = pair()
    flood(net, b, int(LOAD_BURST) + 10)
    a.send([packet(A4, B4)])
    while net.now < 2 * REKEY_TIMEOUT:
        flood(net, b, 60)
        net.run(0.05)
    assert HandshakeCompleted(b.public_key) in a.events
    assert b.packets == [bytes(packet(A4, B4))]
    initiations = [data for _, s, _, data in net.sent if s == a.endpoint and data[0] == 1]
    assert len(initiations) == 2
    assert initiations[0][-16:] == bytes(16)
    assert initiations[1][-16:] != bytes(16)


def test_a_loaded_initiator_gets_its_response_with_a_cookie_too() -> None:
    """mac2 protects both ends: a response to a device under load is refused until it carries a cookie."""
    net, a, b = pair()
    a.send([packet(A4, B4)])
    flood(net, a, int(LOAD_BURST) + 10)
    while net.now < 4 * REKEY_TIMEOUT:
        flood(net, a, 60)
        net.run(0.05)
    assert HandshakeCompleted(b.public_key) in a.events
    assert a.drops()["cookie-sent"] > 10
    assert "authentication" not in b.drops()


def test_a_source_with_a_cookie_is_limited() -> None:
    """The attacker proves its address; then that address gets so many handshakes and no more."""
    net, _, b = pair()
    flood(net, b, int(LOAD_BURST))
    generator = MacGenerator(b.public_key)
    body = Initiation(1, bytes(32), bytes(48), bytes(28)).encode()
    b.receive([generator.add_macs(body, net.now)], ATTACKER)
    generator.cookie_reply_received(CookieReply.decode_untrusted(net.sent[-1][3]), net.now)
    before = b.drops()
    b.receive([generator.add_macs(body, net.now)] * 50, ATTACKER)
    after = b.drops()
    worked = after["weak-key"] - before.get("weak-key", 0)
    assert worked == SOURCE_BURST
    assert after["rate-limited"] == 50 - SOURCE_BURST

    elsewhere = ATTACKER._replace(host="198.51.100.67")
    b.receive([generator.add_macs(body, net.now)], elsewhere)
    assert b.drops()["cookie-sent"] == after["cookie-sent"] + 1, "a cookie is good for its own address only"


def test_transport_goes_on_under_load() -> None:
    net, a, b = pair()
    a.send([packet(A4, B4)])
    net.run(1)
    for number in range(50):
        flood(net, b, 50)
        a.send([packet(A4, B4, fill=number)])
        net.run(0.02)
    assert len(b.packets) == 51
