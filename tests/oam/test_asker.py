"""Names that askers prove, and the words that match them."""

import ipaddress

import pytest

from raven.errors import PeerError
from raven.oam.asker import Asker, Who, asker_from_address, asker_told, matches_any, name_untrusted

ALICE = Asker(address="10.1.2.3:4", names=("operator:alice",), source=ipaddress.ip_address("10.1.2.3"))
KUBE = Asker(address="[fd00::1]:4", names=("cert:kube-apiserver", "group:system:masters"))
ANYBODY = asker_from_address("192.0.2.7:9", "192.0.2.7")


@pytest.mark.parametrize(
    ("word", "matching"),
    [
        ("*", {"alice", "kube", "anybody"}),
        ("operator:alice", {"alice"}),
        ("operator:*", {"alice"}),
        ("operator:al*", {"alice"}),
        ("operator:alic", set()),
        ("token:alice", set()),
        ("group:system:masters", {"kube"}),
        ("group:system:*", {"kube"}),
        ("from:192.0.2.0/24", {"anybody"}),
        ("from:10.0.0.0/8", {"alice"}),
        ("from:[fd00::]/8", None),
    ],
)
def test_who_matches_whom(word: str, matching: set[str] | None) -> None:
    if matching is None:
        with pytest.raises(ValueError, match="expected from:NETWORK"):
            Who.parse(word)
        return
    askers = {"alice": ALICE, "kube": KUBE, "anybody": ANYBODY}
    assert {name for name, asker in askers.items() if Who.parse(word).matches(asker)} == matching
    assert str(Who.parse(word)) == word


@pytest.mark.parametrize(
    "word", ["", "alice", "root:0", "operator:", "operator:a*b", "operator:a b", "from:"]
)
def test_a_word_that_means_nothing_is_an_error(word: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Who.parse(word)


def test_from_takes_brackets_and_ipv6() -> None:
    assert Who.parse("from:[::1]").matches(asker_from_address("[::1]:5", "::1"))


def test_an_ipv4_asker_on_a_dual_stack_socket_is_the_same_asker() -> None:
    assert Who.parse("from:127.0.0.0/8").matches(asker_from_address("x", "::ffff:127.0.0.1"))


def test_nobody_is_matched_by_a_network_without_an_address() -> None:
    assert not Who.parse("from:0.0.0.0/0").matches(Asker(address="unix pid 4", names=("uid:0",)))
    assert not Who.parse("from:0.0.0.0/0").matches(asker_told("unix pid 4", ()))


def test_an_asker_survives_the_wire() -> None:
    assert asker_told("10.1.2.3:4", ["operator:alice"]) == ALICE
    assert asker_told("[fd00::1]:9", []).source == ipaddress.ip_address("fd00::1")


@pytest.mark.parametrize("text", ["", "two words", "a,b", "line\nbreak", "ü", "x" * 200])
def test_a_name_that_could_be_read_as_something_else_is_refused(text: str) -> None:
    with pytest.raises(PeerError, match="cannot be a name"):
        name_untrusted("cert", text)


def test_identity_is_the_best_name() -> None:
    assert (KUBE.identity, ANYBODY.identity) == ("cert:kube-apiserver", "anonymous")
    assert str(ALICE) == "operator:alice at 10.1.2.3:4"
    assert matches_any([Who.parse("uid:0"), Who.parse("cert:*")], KUBE)
