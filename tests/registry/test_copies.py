"""A registry and its copy: the same answers about who may connect, and no secret on the way."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven.control.copies import PAGE, Copy, decode_followed_untrusted, decode_follower_untrusted
from raven.control.messages import encode
from raven.errors import PeerError, RefusedError
from raven.keys import PublicKey
from raven.pki.token import hash_secret
from raven.registry.interface import CredentialRecord
from raven.registry.sqlite import SqliteRegistry
from tests.registry.records import KEY, NOW, SECRET, WG, enrol, token


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SqliteRegistry]:
    with contextlib.closing(SqliteRegistry(tmp_path / "own.sqlite", now=NOW)) as opened:
        opened.add_token(token(reusable=True))
        opened.record_gateway("gw-1", address="gw-1:443", now=NOW)
        yield opened


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[SqliteRegistry]:
    with contextlib.closing(SqliteRegistry(tmp_path / "copied.sqlite", now=NOW)) as opened:
        yield opened


def carry(own: SqliteRegistry, copied: SqliteRegistry) -> None:
    """Page by page, as they would go over the wire."""
    pages = [decode_followed_untrusted(encode(page)) for page in own.copy()]
    assert all(isinstance(page, Copy) for page in pages)
    assert [page.more for page in pages if isinstance(page, Copy)] == [True] * (len(pages) - 1) + [False]
    copied.take_copy([page for page in pages if isinstance(page, Copy)])


def hello(registry: SqliteRegistry, node: str, *pod_cidrs: str, key: PublicKey = WG) -> None:
    registry.record_hello(node, public_key=key, pod_cidrs=pod_cidrs, software="1", now=NOW + 5)


def test_a_copy_answers_as_its_original(own: SqliteRegistry, copied: SqliteRegistry) -> None:
    for name in ("a", "b", "gone"):
        enrol(own, name, f"0{name}")
        hello(own, name, "10.1.0.0/24", "fd00::/64")
    own.remove_node("gone", now=NOW + 10)
    enrol_again = token("again", node="b", reusable=True)
    own.add_token(enrol_again)
    enrol(own, "b", "0c", token_id="again", key_hash=b"n" * 32, now=NOW + 20)
    carry(own, copied)
    assert {node.name: node.pod_cidrs for node in copied.nodes()} == {
        "a": ("10.1.0.0/24", "fd00::/64"),
        "b": ("10.1.0.0/24", "fd00::/64"),
    }
    assert [node.public_key for node in copied.nodes()] == [WG, WG]
    assert copied.entitled(now=NOW + 30) == own.entitled(now=NOW + 30) == {"a", "b"}
    assert copied.known_gateways().gateways[0].address == "gw-1:443"
    assert copied.known_gateways().revision == own.known_gateways().revision
    for registry in (own, copied):
        registry.check_certificate(node="a", serial="0a")
        registry.check_certificate(node="b", serial="0c")
        for node, serial, reason in (("b", "0b", "certificate-replaced"), ("gone", "0gone", "node-unknown")):
            with pytest.raises(RefusedError) as caught:
                registry.check_certificate(node=node, serial=serial)
            assert caught.value.reason == reason


def test_what_a_copy_saw_itself_stays(own: SqliteRegistry, copied: SqliteRegistry) -> None:
    enrol(own, "a", "0a")
    carry(own, copied)
    copied.record_seen({"a": NOW + 100})
    enrol(own, "b", "0b")
    carry(own, copied)
    assert {node.name: node.last_seen for node in copied.nodes()} == {"a": NOW + 100, "b": None}


def test_a_withdrawal_makes_the_copy_look_at_who_is_connected(
    own: SqliteRegistry, copied: SqliteRegistry
) -> None:
    enrol(own, "a", "0a")
    carry(own, copied)
    before = copied.revision()
    own.remove_node("a", now=NOW)
    carry(own, copied)
    assert copied.revision() != before
    assert copied.nodes() == []


def test_no_secret_is_in_a_copy(own: SqliteRegistry) -> None:
    own.add_token(token("t2"))
    enrol(own, "a", "0a")
    text = b"".join(encode(page) for page in own.copy())
    assert b"tok" not in text
    assert b"t2" not in text
    assert SECRET not in text


def test_who_may_ask_is_copied_with_the_hash_alone(own: SqliteRegistry, copied: SqliteRegistry) -> None:
    asker = CredentialRecord(
        id="a1", kind="token", name="ops", secret_hash=hash_secret(SECRET), created=NOW, expires=NOW + 99
    )
    own.add_credential(asker)
    carry(own, copied)
    assert copied.credential("a1") == asker
    before = own.copy_revision()
    own.revoke_credential("a1", now=NOW + 1)
    assert own.copy_revision() != before
    carry(own, copied)
    assert copied.credential("a1") == own.credential("a1")


def test_only_what_matters_makes_a_new_revision(own: SqliteRegistry) -> None:
    enrol(own, "a", "0a")
    hello(own, "a", "10.1.0.0/24")
    before = own.copy_revision()
    hello(own, "a", "10.1.0.0/24")
    own.record_seen({"a": NOW + 50})
    own.record_use(node="a", serial="0a", now=NOW)
    own.record_gateway("gw-1", address="gw-1:443", now=NOW)
    assert own.copy_revision() == before
    for change in (
        lambda: hello(own, "a", "10.2.0.0/24"),
        lambda: enrol(own, "b", "0b"),
        lambda: own.record_gateway("gw-2", address="gw-2:443", now=NOW),
        lambda: own.remove_node("a", now=NOW),
    ):
        change()
        assert own.copy_revision() != before
        before = own.copy_revision()


def test_a_large_registry_goes_in_pages(own: SqliteRegistry, copied: SqliteRegistry) -> None:
    for number in range(PAGE + 3):
        enrol(own, f"n{number}", f"{number:04X}")
    assert len(own.copy()) == 3
    carry(own, copied)
    assert len(copied.nodes()) == PAGE + 3


def test_gateways_come_and_go_by_token_and_key(own: SqliteRegistry) -> None:
    own.add_token(dataclasses.replace(token("gw", node="gw-2"), role="gateway"))

    def join(name: str, key: bytes, token_id: str = "gw") -> None:
        own.enrol_gateway(
            token_id=token_id, secret=SECRET, name=name, address=f"{name}:443", key_hash=key, now=NOW
        )

    for name, token_id, reason in (("gw-3", "gw", "token-node"), ("gw-2", "tok", "token-role")):
        with pytest.raises(RefusedError) as caught:
            join(name, KEY, token_id)
        assert caught.value.reason == reason
    join("gw-2", KEY)
    join("gw-2", KEY)  # its answer was lost
    with pytest.raises(RefusedError) as caught:
        join("gw-2", b"o" * 32)
    assert caught.value.reason == "token-used"
    own.check_gateway("gw-2", key_hash=KEY)
    revision = own.known_gateways().revision
    assert own.remove_gateway("gw-2", now=NOW)
    assert not own.remove_gateway("gw-2", now=NOW)
    assert own.known_gateways().revision > revision
    own.readdress_gateway("gw-2", address="elsewhere:1", now=NOW)  # may not bring it back
    assert [one.name for one in own.known_gateways().gateways] == ["gw-1"]
    with pytest.raises(RefusedError) as caught:
        own.check_gateway("gw-2", key_hash=KEY)
    assert caught.value.reason == "gateway-unknown"


def test_a_list_set_back_to_a_backup_is_still_newer(tmp_path: Path) -> None:
    with contextlib.closing(SqliteRegistry(tmp_path / "r.sqlite", now=NOW)) as opened:
        opened.record_gateway("gw-1", address="a:1", now=NOW)
        told = opened.known_gateways().revision
    with contextlib.closing(SqliteRegistry(tmp_path / "fresh.sqlite", now=NOW)) as restored:
        restored.record_gateway("gw-1", address="a:1", now=NOW + 1)
        assert restored.known_gateways().revision > told


@pytest.mark.parametrize("data", [b"", b"{}", b'{"type":"copy"}', b"[" * 100_000, b'{"type":"agent-hello"}'])
def test_what_is_no_message_between_gateways_is_refused(data: bytes) -> None:
    for decode in (decode_followed_untrusted, decode_follower_untrusted):
        with pytest.raises(PeerError) as caught:
            decode(data)
        assert caught.value.reason == "bad-control"
