"""The registry in SQLite: what it keeps of nodes, tokens and credentials, what it forgets, and full disks."""

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven.errors import StateError
from raven.pki.token import hash_secret
from raven.registry import audit_log
from raven.registry.interface import CredentialRecord
from raven.registry.rules import REMEMBER
from raven.registry.schema import STEPS
from raven.registry.sqlite import SqliteRegistry
from tests.registry.disks import fill, small_disk
from tests.registry.records import NOW, SECRET, WG, audit, enrol, token


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SqliteRegistry]:
    with contextlib.closing(SqliteRegistry(tmp_path / "registry.sqlite", now=NOW)) as opened:
        yield opened


def test_what_a_node_said_last_is_remembered(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    enrol(registry, "shop-1", "0A")
    cidrs = ["10.1.0.0/24", "fd00:1::/64"]
    registry.record_hello("shop-1", public_key=WG, pod_cidrs=cidrs, software="raven 0.1", now=NOW + 1)
    registry.record_seen({"shop-1": NOW + 9, "nobody": NOW})
    registry.record_seen({"shop-1": NOW + 5})  # late news do not make it older
    node = registry.node("shop-1")
    assert node is not None
    assert (node.public_key, node.pod_cidrs, node.software) == (WG, tuple(cidrs), "raven 0.1")
    assert node.last_seen == NOW + 9
    registry.record_hello("shop-1", public_key=None, pod_cidrs=[], software="raven 0.2", now=NOW + 10)
    node = registry.node("shop-1")
    assert node is not None
    assert (node.public_key, node.pod_cidrs, node.last_seen) == (None, (), NOW + 10)
    assert registry.node("nobody") is None


def test_nodes_are_found_by_their_address_even_two(registry: SqliteRegistry) -> None:
    registry.add_token(token(reusable=True))
    for number, (name, address) in enumerate([("b", "10.0.0.7"), ("a", "10.0.0.7"), ("c", "")]):
        enrol(registry, name, f"0{number}")
        registry.record_hello(name, public_key=None, pod_cidrs=[], software="", now=NOW, address=address)
    assert registry.nodes_at("10.0.0.7") == ["a", "b"]
    assert registry.nodes_at("10.0.0.8") == []
    registry.record_hello("a", public_key=None, pod_cidrs=[], software="", now=NOW, address="10.0.0.8")
    assert registry.nodes_at("10.0.0.7") == ["b"]
    node = registry.node("a")
    assert node is not None
    assert node.address == "10.0.0.8"


def test_tokens_are_listed_removed_and_in_the_end_forgotten(registry: SqliteRegistry) -> None:
    registry.add_token(token("a", node="shop-1", reusable=True))
    assert registry.tokens() == [token("a", node="shop-1", reusable=True)]
    assert registry.remove_token("a")
    assert not registry.remove_token("a")
    registry.add_token(token("dead", expires=NOW - REMEMBER - 1))
    registry.add_token(token("expired", expires=NOW - 1))
    registry.add_token(token("live"))
    assert {t.id for t in registry.tokens()} == {"expired", "live"}


def test_secrets_are_neither_stored_nor_shown(registry: SqliteRegistry, tmp_path: Path) -> None:
    registry.add_token(token())
    enrol(registry, "shop-1", "0A")
    shown = repr(registry.tokens())
    assert "secret" not in shown
    assert str(hash_secret(SECRET)) not in shown
    for path in tmp_path.iterdir():
        assert SECRET not in path.read_bytes()


def test_the_audit_keeps_the_newest(registry: SqliteRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "AUDIT_MAX", 10)
    for first in range(0, 40, 4):
        registry.append_audit([audit(number) for number in range(first, first + 4)])
    assert registry.audit() == [audit(number) for number in range(39, 29, -1)]
    assert registry.audit(limit=2) == [audit(39), audit(38)]
    registry.append_audit([])
    registry.append_audit([audit(99, target="x" * 10_000)])
    assert len(registry.audit(limit=1)[0].target) == audit_log.AUDIT_FIELD_MAX


@pytest.mark.netns
def test_a_full_disk_refuses_the_join_and_keeps_serving(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        contextlib.closing(SqliteRegistry(disk / "registry.sqlite", now=NOW)) as registry,
    ):
        registry.add_token(token())
        registry.add_token(token("again", node="shop-1"))
        enrol(registry, "shop-1", "0A")
        ballast = fill(disk)
        # The write-ahead log may have room left in its last page: this is more than a page.
        with pytest.raises(StateError, match=r"registry\.sqlite: the disk is full"):
            registry.append_audit([audit(number, target="x" * 500) for number in range(100)])
        with pytest.raises(StateError, match="the disk is full"):
            enrol(registry, "shop-1", "0B", token_id="again", key_hash=b"n" * 32)
        with pytest.raises(StateError, match="the disk is full"):
            registry.record_seen({"shop-1": NOW})
        registry.check_certificate(node="shop-1", serial="0A")
        assert [c.serial for c in registry.certificates("shop-1")] == ["0A"]
        ballast.unlink()
        assert enrol(registry, "shop-1", "0B", token_id="again", key_hash=b"n" * 32).serial == "0B"


def test_a_token_says_what_its_node_may_carry_and_so_does_an_operator(registry: SqliteRegistry) -> None:
    def allowed() -> tuple[str, ...]:
        record = registry.node("shop-1")
        assert record is not None
        return record.pod_allow

    bound = dataclasses.replace(token(node="shop-1", reusable=True), pod_cidrs=("10.1.0.0/24", "fd00::/64"))
    registry.add_token(bound)
    assert registry.tokens()[0].pod_cidrs == ("10.1.0.0/24", "fd00::/64")
    enrol(registry, "shop-1", "AA")
    assert allowed() == ("10.1.0.0/24", "fd00::/64")
    before = registry.revision()
    assert registry.allow_pods("shop-1", ["10.2.0.0/24"])
    assert allowed() == ("10.2.0.0/24",)
    assert registry.revision() != before
    assert not registry.allow_pods("shop-9", ["10.2.0.0/24"])
    # A join by a token that says nothing of pods changes nothing about them.
    registry.add_token(token("plain", node="shop-1"))
    enrol(registry, "shop-1", "BB", token_id="plain", key_hash=b"n" * 32)
    assert allowed() == ("10.2.0.0/24",)


def test_nodes_of_an_older_registry_carry_on_what_they_carried(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    with contextlib.closing(SqliteRegistry(path, now=NOW)) as registry:
        registry.add_token(token())
        enrol(registry, "shop-1", "AA")
        registry.record_hello("shop-1", public_key=WG, pod_cidrs=["10.1.0.0/24"], software="1", now=NOW)
    with contextlib.closing(sqlite3.connect(path)) as file:
        later = ("node_allowed", "credential_added", "credential_changed", "credential_removed")
        for trigger in ("node_pods_allowed", *(f"copy_{what}" for what in later)):
            file.execute(f"DROP TRIGGER {trigger}")
        file.execute("ALTER TABLE nodes DROP COLUMN pod_allow")
        file.execute("ALTER TABLE tokens DROP COLUMN pod_cidrs")
        step = next(number for number, text in enumerate(STEPS) if "pod_allow" in text)
        file.execute(f"PRAGMA user_version = {step}")
    with contextlib.closing(SqliteRegistry(path, now=NOW)) as registry:
        (node,) = registry.nodes()
        assert node.pod_allow == node.pod_cidrs == ("10.1.0.0/24",)


def test_credentials_are_kept_hashed_revoked_once_and_forgotten_late(registry: SqliteRegistry) -> None:
    record = CredentialRecord(
        id="abc",
        kind="token",
        name="prometheus",
        secret_hash=hash_secret(SECRET),
        created=NOW,
        expires=NOW + 60,
    )
    registry.add_credential(record)
    assert registry.credential("abc") == record
    assert registry.credentials() == [record]
    assert SECRET.hex() not in repr(record)
    before = registry.revision()
    assert registry.revoke_credential("abc", now=NOW + 1)
    assert not registry.revoke_credential("abc", now=NOW + 2)
    assert registry.revision() != before
    gone = registry.credential("abc")
    assert gone is not None
    assert gone.revoked == NOW + 1
    late = dataclasses.replace(record, id="def", created=NOW + 61 + REMEMBER, expires=NOW * 2)
    registry.add_credential(late)
    assert registry.credentials() == [late]
