"""What netcheck says about what it heard."""

import time

import pytest

from raven.diagnosis import network
from raven.diagnosis.datagrams import Heard, probe
from raven.diagnosis.evidence import Attempt, Contact, Proxied, Shown
from raven.pki.renewal import LEAF_LIFE
from tests.pki.material import der, make_authority, make_key, seeded


def test_proxies_are_shown_without_their_passwords() -> None:
    environment = {"https_proxy": "http://me:secret@proxy:3128", "NO_PROXY": "localhost", "PATH": "/bin"}
    contact = Contact(host="gw", port=443)
    first, second = network.proxies(environment, contact)
    assert (first.about, first.said) == ("HTTPS_PROXY", "set to http://...@proxy:3128")
    assert "NO_PROXY keeps gw:443 from it" in first.next
    assert (second.about, second.next) == ("NO_PROXY", "")
    (other,) = network.proxies({"ALL_PROXY": "proxy:1"}, contact)
    assert "give that proxy as --proxy" in other.next
    assert network.proxies({}, contact)[0].result == "ok"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("me:s3cret@proxy:3128", "...@proxy:3128"),
        ("http://me:s3@cret@proxy", "http://...@proxy"),
        ("http://me:s3/cret@proxy", "http://...@proxy"),
        ("http://me:s3?cret#@proxy:1", "http://...@proxy:1"),
    ],
)
def test_a_password_that_ends_like_something_else_is_not_shown(value: str, said: str) -> None:
    (found,) = network.proxies({"HTTPS_PROXY": value}, Contact(host="gw", port=443))
    assert found.said == f"set to {said}"


def test_a_proxy_on_the_way_is_no_matter_of_variables() -> None:
    contact = Contact(host="gw", port=443, proxied=Proxied(proxy="proxy:3128", reason="proxy-connect"))
    assert network.proxies({}, contact) == []
    (found,) = network.proxies({"HTTPS_PROXY": "http://proxy:3128"}, contact)
    assert (found.result, found.next) == ("note", "")


@pytest.mark.parametrize(
    ("heard", "result", "words"),
    [
        (Heard(address="192.0.2.1", port=4500, sent=1), "unknown", "does not answer strangers"),
        (Heard(address="192.0.2.1", port=4500, sent=1, refused=True), "note", "refused"),
        (Heard(address="192.0.2.1", port=4500, problem="Operation not permitted"), "note", "not permitted"),
        (Heard(address="192.0.2.1", port=4500, sent=1, answered=True), "note", "not WireGuard"),
    ],
)
def test_silence_is_not_taken_for_an_answer(heard: Heard, result: str, words: str) -> None:
    found = network.datagrams(heard)
    assert (found.result, words in found.said) == (result, True)


@pytest.mark.parametrize(
    ("address", "mtu", "result"),
    [
        ("192.0.2.1", 1480, "ok"),
        ("192.0.2.1", 1479, "note"),
        ("2001:db8::1", 1500, "ok"),
        ("2001:db8::1", 1499, "note"),
    ],
)
def test_the_path_has_room_for_the_devices_packets(address: str, mtu: int, result: str) -> None:
    (found,) = network.path_mtu(Heard(address=address, port=4500, sent=1, mtu=mtu))
    assert found.result == result
    assert network.path_mtu(Heard(address=address, port=4500)) == []


def test_one_address_family_is_enough() -> None:
    good, bad = (
        Attempt(address="192.0.2.1:443", seconds=0.1),
        Attempt(address="[2001:db8::1]:443", problem="no"),
    )
    (found,) = network.families(Contact(host="gw", port=443, attempts=(good, bad)))
    assert (found.hop, found.result) == ("ipv6", "note")
    assert network.families(Contact(host="gw", port=443, attempts=(bad,))) == [], "tcp says that already"


def test_a_clock_that_would_spoil_a_join() -> None:
    """Ours is five days ahead, and the gateway's certificate ended yesterday by it."""
    now = time.time()
    ca = make_authority(now=now)
    issued = now - LEAF_LIFE - 86400
    leaf = ca.issue_gateway("gw", make_key(3).public_key(), hosts=["gw"], now=issued, random=seeded())

    def shown(ahead: float) -> Shown:
        return Shown(ca_pem=ca.certificate_pem, cluster="lab", leaf_der=der(leaf), ahead=ahead, seconds=0.1)

    found = network.too_late(shown(-5 * 86400.0))
    assert found is not None
    assert (found.hop, found.result) == ("certificate", "broken")
    assert network.too_late(shown(0.0)) is None, "then it is the gateway's own fault"


async def test_a_port_where_nobody_listens_refuses() -> None:
    heard = await probe("127.0.0.1", 9)
    assert (heard.sent, heard.refused, heard.problem) == (1, True, "")


@pytest.mark.parametrize(
    ("source", "seen_as", "words"),
    [
        ("192.168.1.7:40000", "192.168.1.7:40000", "none: the gateway sees this machine as 192.168.1.7"),
        (
            "192.168.1.7:40000",
            "203.0.113.5:40000",
            "7 becomes 203.0.113.5, and the NAT keeps ports",
        ),
        ("192.168.1.7:40000", "203.0.113.5:1024", "the NAT makes 1024 of 40000"),
        ("192.168.1.7:40000", "[::ffff:192.168.1.7]:40000", "none"),
        ("[2001:db8::7]:40000", "[2001:db8::7]:40000", "none: the gateway sees this machine as 2001:db8::7"),
    ],
)
def test_what_a_nat_makes_of_this_machine(source: str, seen_as: str, words: str) -> None:
    shown = Shown(
        ca_pem="", cluster="c", leaf_der=b"", ahead=0.0, seconds=0.1, source=source, seen_as=seen_as
    )
    (found,) = network.translation(shown)
    assert (found.result, words in found.said) == ("ok", True), found.said


def test_a_gateway_that_does_not_say_leaves_the_nat_unknown() -> None:
    shown = Shown(ca_pem="", cluster="c", leaf_der=b"", ahead=0.0, seconds=0.1, source="192.0.2.1:5")
    assert network.translation(shown) == []
