"""Each judgement alone, on made-up evidence and real certificates."""

import errno

import pytest

from raven.diagnosis import judge
from raven.diagnosis.evidence import TIMED_OUT, Attempt, Contact, Lookup, Proxied, Shown
from raven.diagnosis.finding import Finding
from raven.pki.certificate import Leaf
from raven.pki.renewal import GRACE, LEAF_LIFE
from tests.pki.material import NOW, der, make_authority, make_key, seeded

HERE = ("192.0.2.1:443", "[2001:db8::1]:443")
CA = make_authority()
GATEWAY = CA.issue_gateway("gw", make_key(3).public_key(), hosts=["gw.example"], now=NOW, random=seeded())
NODE = CA.issue_node("shop-1", make_key(4).public_key(), now=NOW, random=seeded(2))
CONNECTED = Attempt(address=HERE[0], seconds=0.01)


def shown(*, leaf: Leaf = GATEWAY, ca: str = CA.certificate_pem, ahead: float = 0.0) -> Shown:
    return Shown(ca_pem=ca, cluster="lab", leaf_der=der(leaf), ahead=ahead, seconds=0.02)


def contact(*, to: Shown | None = None, reason: str = "", **evidence: tuple[object, ...]) -> Contact:
    lookups = tuple(each for each in evidence.get("lookups", ()) if isinstance(each, Lookup))
    attempts = tuple(each for each in evidence.get("attempts", (CONNECTED,)) if isinstance(each, Attempt))
    return Contact(
        host="gw.example",
        port=443,
        lookups=lookups,
        attempts=attempts,
        tls_reason=reason,
        tls_problem="the words of it" if reason else "",
        shown=to,
    )


def test_a_name_with_an_address_of_one_family_is_well() -> None:
    lookups = (Lookup(family=4, addresses=("192.0.2.1",)), Lookup(family=6, problem="no such name"))
    (found,) = judge.name(contact(lookups=lookups))
    assert (found.result, found.said) == ("ok", "gw.example is 192.0.2.1")


@pytest.mark.parametrize(
    ("temporary", "step"), [(True, "/etc/resolv.conf"), (False, "getent hosts gw.example")]
)
def test_a_name_without_an_address(temporary: bool, step: str) -> None:
    lookups = tuple(Lookup(family=family, problem="no", temporary=temporary) for family in (4, 6))
    (found,) = judge.name(contact(lookups=lookups, attempts=()))
    assert found.result == "broken"
    assert found.said == "gw.example cannot be looked up: no"
    assert step in found.next


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ECONNREFUSED, "start raven-gateway there"),
        (errno.ENETUNREACH, "`ip route get 192.0.2.1`"),
        (TIMED_OUT, "let TCP out to 192.0.2.1 port 443"),
        (errno.EPERM, "firewall of this machine"),
    ],
)
def test_tcp_says_what_to_try(number: int, step: str) -> None:
    failed = Attempt(address=HERE[0], problem="no", errno=number)
    (found,) = judge.tcp(contact(attempts=(failed,)))
    assert found.result == "broken"
    assert step in found.next
    beside = judge.tcp(contact(attempts=(failed, Attempt(address=HERE[1], seconds=0.1))))
    assert [each.result for each in beside] == ["note", "ok"], "one way that works is enough"


def test_tls_needs_tcp_first() -> None:
    assert judge.tls(contact(attempts=()), ca=None) == []


def test_a_gateway_that_is_the_pinned_one() -> None:
    (found,) = judge.tls(contact(to=shown()), ca=CA.certificate, cluster="lab")
    assert found.result == "ok"
    assert "raven://lab/gateway/gw answered" in found.said
    (stranger,) = judge.tls(contact(to=shown()), ca=None)
    assert "compare it with the last part of the join token" in stranger.said


def test_gateways_that_are_not() -> None:
    other = make_authority("lab", seed=9)
    cases = {
        "this node trusts": (shown(ca=other.certificate_pem), CA.certificate, "lab"),
        "expected cluster": (shown(), CA.certificate, "other"),
        "expected a gateway": (shown(leaf=NODE), CA.certificate, "lab"),
        "not signed by": (shown(ca=other.certificate_pem), None, ""),
        "cannot be used": (shown(ca="junk"), CA.certificate, "lab"),
    }
    for words, (what, ca, cluster) in cases.items():
        (found,) = judge.tls(contact(to=what), ca=ca, cluster=cluster)
        assert found.result == "broken"
        assert words in found.said
        assert "somebody in between" in found.next


def test_a_gateway_whose_certificate_has_expired_by_its_own_clock() -> None:
    late = NOW + LEAF_LIFE + 60
    (found,) = judge.tls(contact(to=shown()), ca=CA.certificate, cluster="lab", now=late)
    assert found.result == "broken"
    assert "restart it" in found.next


@pytest.mark.parametrize(
    ("reason", "step"),
    [("tls-timeout", "drops full-sized packets"), ("wrong-alpn", "compare the port"), ("tls-eof", "log")],
)
def test_tls_that_does_not_come_about(reason: str, step: str) -> None:
    (found,) = judge.tls(contact(reason=reason), ca=None)
    assert (found.result, found.said) == ("broken", "the words of it")
    assert step in found.next


@pytest.mark.parametrize(
    ("ahead", "result", "words"),
    [
        (5.0, "ok", "within 5 s"),
        (7200.0, "note", "2 h behind the gateway's"),
        (-86400.0 * 4, "note", "4 d ahead of the gateway's"),
    ],
)
def test_the_clock_beside_the_gateways(ahead: float, result: str, words: str) -> None:
    found = judge.clock(shown(ahead=ahead), "gw")
    assert found.result == result
    assert words in found.said
    assert ("timedatectl" in found.next) == (result == "note")


@pytest.mark.parametrize(
    ("age", "result", "said", "step"),
    [
        (0.0, "ok", "good for another 90 d", ""),
        (-7200.0, "broken", "counts from", "timedatectl"),
        (LEAF_LIFE * 0.7, "note", "due for renewal", "by itself"),
        (LEAF_LIFE + 5 * 86400, "broken", "expired 5 d ago", "leave raven-agent running"),
        (LEAF_LIFE + GRACE + 86400, "broken", "expired 31 d ago", "again"),
    ],
)
def test_a_certificate_through_its_life(age: float, result: str, said: str, step: str) -> None:
    found: Finding = judge.certificate(NODE, now=NOW + age, about="node.crt", rejoin="join again")
    assert found.result == result
    assert said in found.said
    assert step in found.next


@pytest.mark.parametrize(
    ("reason", "known", "result"),
    [("proxy-auth", True, "broken"), ("proxy-auth", False, "unknown"), ("proxy-forbids", False, "broken")],
)
def test_what_a_proxy_said(reason: str, known: bool, result: str) -> None:
    proxied = Proxied(proxy="proxy:3128", reason=reason, problem="the proxy proxy:3128 says no")
    found = judge.proxy(proxied, "gw:443", password_known=known)
    assert (found.hop, found.about, found.result) == ("proxy", "gw:443", result)
    assert found.said.startswith(proxied.problem)
    assert found.next
    assert "{" not in found.next
