import contextlib
import dataclasses
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven.errors import RefusedError, StateError
from raven.pki.renewal import LEAF_LIFE
from raven.pki.token import hash_secret
from raven.registry import audit_log
from raven.registry.interface import (
    AuditRecord,
    CertificateRecord,
    CredentialRecord,
    Registry,
)
from raven.registry.rules import REMEMBER
from raven.registry.schema import STEPS
from raven.registry.sqlite import SqliteRegistry
from tests.registry.disks import fill, small_disk
from tests.registry.records import KEY, NOW, SECRET, WG, enrol, issuing, token


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SqliteRegistry]:
    with contextlib.closing(SqliteRegistry(tmp_path / "registry.sqlite", now=NOW)) as opened:
        yield opened


def refusal(registry: Registry, node: str, serial: str = "FF", **given: object) -> str:
    before = (registry.nodes(), registry.tokens(), registry.certificates(node))
    with pytest.raises(RefusedError) as caught:
        enrol(registry, node, serial, **given)  # type: ignore[arg-type]
    assert (registry.nodes(), registry.tokens(), registry.certificates(node)) == before
    return caught.value.reason


def test_a_node_joins_by_token(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    certificate = enrol(registry, "shop-1", "0A")
    assert certificate == issuing("0A")("shop-1")
    node = registry.node("shop-1")
    assert node is not None
    assert (node.created, node.last_seen, node.public_key, node.certificate_serial) == (NOW, None, None, "0A")
    assert registry.nodes() == [node]
    assert registry.certificates("shop-1") == [certificate]
    assert [(t.uses, t.used, t.used_by) for t in registry.tokens()] == [(1, NOW, "shop-1")]
    assert [(a.event, a.node, a.asker, a.target, a.verdict) for a in registry.audit()] == [
        ("join", "shop-1", "192.0.2.7:1", "tok", "allowed")
    ]


def test_each_refusal_has_its_word_and_changes_nothing(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    registry.add_token(token("old", expires=NOW))
    registry.add_token(token("bound", node="shop-9"))
    registry.add_token(token("many", reusable=True))
    assert refusal(registry, "shop-1", token_id="none") == "token-unknown"
    assert refusal(registry, "shop-1", secret=b"x" * 24) == "token-unknown"
    assert refusal(registry, "shop-1", secret=b"") == "token-unknown"
    assert refusal(registry, "shop-1", token_id="old") == "token-expired"
    assert refusal(registry, "shop-1", token_id="bound") == "token-node"
    enrol(registry, "shop-1", "0A")
    assert refusal(registry, "shop-2") == "token-used"
    assert refusal(registry, "shop-1", key_hash=b"o" * 32) == "token-used"
    assert refusal(registry, "shop-1", token_id="many") == "node-taken"
    # Whoever guesses an id does not learn whether the token behind it has expired or been used.
    assert refusal(registry, "shop-2", secret=b"x" * 24) == "token-unknown"
    assert refusal(registry, "shop-2", token_id="old", secret=b"x" * 24) == "token-unknown"


def test_a_reusable_token_serves_many_nodes(registry: SqliteRegistry) -> None:
    registry.add_token(token(reusable=True))
    for number in range(3):
        enrol(registry, f"shop-{number}", f"0{number}", key_hash=bytes([number]) * 32)
    assert [node.name for node in registry.nodes()] == ["shop-0", "shop-1", "shop-2"]
    assert registry.tokens()[0].uses == 3


def test_a_token_made_for_a_node_lets_it_join_again(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    enrol(registry, "shop-1", "0A")
    registry.record_hello("shop-1", public_key=WG, pod_cidrs=["10.1.0.0/24"], software="x", now=NOW + 1)
    registry.add_token(token("again", node="shop-1"))
    enrol(registry, "shop-1", "0B", token_id="again", key_hash=b"n" * 32, now=NOW + 5)
    node = registry.node("shop-1")
    assert node is not None
    assert (node.certificate_serial, node.created, node.public_key) == ("0B", NOW, WG)
    assert [(c.serial, c.revoked) for c in registry.certificates("shop-1")] == [("0B", None), ("0A", NOW + 5)]
    assert refusal(registry, "shop-1", token_id="again", now=NOW + 6) == "token-used"


def test_a_join_whose_answer_was_lost_is_answered_again(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    first = enrol(registry, "shop-1", "0A")
    assert enrol(registry, "shop-1", "0B", now=NOW + 60) == first
    assert registry.tokens()[0].uses == 1
    # Neither after the token's end, nor once the certificate is old, nor when the node was removed.
    assert refusal(registry, "shop-1", now=NOW + 3600) == "token-expired"
    registry.remove_node("shop-1", now=NOW + 61)
    assert refusal(registry, "shop-1", now=NOW + 62) == "token-used"


def test_an_old_certificate_is_not_handed_out_again(registry: SqliteRegistry) -> None:
    registry.add_token(token(node="shop-1", reusable=True, expires=NOW + LEAF_LIFE))
    enrol(registry, "shop-1", "0A")
    assert enrol(registry, "shop-1", "0B", now=NOW + LEAF_LIFE * 0.6).serial == "0A"
    assert enrol(registry, "shop-1", "0B", now=NOW + LEAF_LIFE * 0.7).serial == "0B"


def test_an_issuer_that_fails_spends_no_token(registry: SqliteRegistry) -> None:
    def issue(node: str) -> CertificateRecord:
        raise ZeroDivisionError

    registry.add_token(token())
    with pytest.raises(ZeroDivisionError):
        registry.enrol(token_id="tok", secret=SECRET, node="a", key_hash=KEY, now=NOW, issue=issue)
    assert registry.nodes() == []
    assert enrol(registry, "a", "0A").serial == "0A"


RACER = """
import json, pathlib, sys
sys.path.insert(0, {root!r})
from raven.errors import RefusedError
from raven.registry.sqlite import SqliteRegistry
from tests.registry.records import enrol
registry = SqliteRegistry(pathlib.Path(sys.argv[1]), now=0)
print("ready", flush=True)
sys.stdin.readline()
won, lost = [], []
for number in range(30):
    try:
        letter = sys.argv[2]
        node, serial = f"shop-{{letter.lower()}}-{{number}}", f"{{letter}}{{number:02}}"
        enrol(registry, node, serial, token_id=f"t{{number}}", key_hash=letter.encode() * 32)
    except RefusedError as error:
        lost.append(error.reason)
    else:
        won.append(number)
print(json.dumps([won, lost]))
"""


def test_two_processes_cannot_redeem_one_token(registry: SqliteRegistry, tmp_path: Path) -> None:
    for number in range(30):
        registry.add_token(token(f"t{number}"))
    root = str(Path(__file__).parents[2])
    path = tmp_path / "registry.sqlite"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER.format(root=root), str(path), letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for letter in "AB"
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [json.loads(racer.communicate(timeout=30)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(results[0][0] + results[1][0]) == list(range(30))
    assert results[0][1] + results[1][1] == ["token-used"] * 30
    assert [t.uses for t in registry.tokens()] == [1] * 30
    assert len(registry.nodes()) == 30


def test_connecting_takes_the_current_certificate(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    registry.add_token(token("again", node="shop-1"))
    enrol(registry, "shop-1", "0A")
    registry.check_certificate(node="shop-1", serial="0A")
    enrol(registry, "shop-1", "0B", token_id="again", key_hash=b"n" * 32)
    registry.check_certificate(node="shop-1", serial="0B")
    for node, serial, reason in [
        ("shop-1", "0A", "certificate-replaced"),
        ("shop-2", "0A", "node-unknown"),
    ]:
        with pytest.raises(RefusedError) as caught:
            registry.check_certificate(node=node, serial=serial)
        assert caught.value.reason == reason
    assert registry.remove_node("shop-1", now=NOW)
    assert not registry.remove_node("shop-1", now=NOW)
    with pytest.raises(RefusedError):
        registry.check_certificate(node="shop-1", serial="0B")
    assert [c.revoked for c in registry.certificates("shop-1")] == [NOW, NOW]


DUE = NOW + LEAF_LIFE * 2 / 3  # of a certificate issued NOW


def renew(
    registry: Registry, serial: str, shown: str, *, now: float = DUE, key_hash: bytes = b"r" * 32
) -> CertificateRecord:
    return registry.renew(
        node="shop-1",
        serial=shown,
        key_hash=key_hash,
        now=now,
        issue=issuing(serial, key_hash=key_hash, now=now),
    )


def reason_not_to_renew(registry: Registry, shown: str, **given: object) -> str:
    before = registry.certificates("shop-1")
    with pytest.raises(RefusedError) as caught:
        renew(registry, "FF", shown, **given)  # type: ignore[arg-type]
    assert registry.certificates("shop-1") == before
    return caught.value.reason


def test_a_certificate_is_renewed_and_the_old_one_is_good_until_the_new_one_was_used(
    registry: SqliteRegistry,
) -> None:
    registry.add_token(token())
    enrol(registry, "shop-1", "0A")
    revision = registry.revision()
    assert renew(registry, "0B", "0A").serial == "0B"
    for serial in ("0A", "0B"):
        registry.check_certificate(node="shop-1", serial=serial)
    # The answer was lost: the same key gets it again, another one has to wait.
    assert renew(registry, "0C", "0A", now=DUE + 1).serial == "0B"
    assert renew(registry, "0C", "0B", now=DUE + 1).serial == "0B", "over the tunnel that asked, as well"
    assert reason_not_to_renew(registry, "0A", now=DUE + 1, key_hash=b"x" * 32) == "renew-often"
    registry.record_use(node="shop-1", serial="0A", now=DUE + 2)
    registry.check_certificate(node="shop-1", serial="0B")
    registry.record_use(node="shop-1", serial="0B", now=DUE + 3)
    registry.check_certificate(node="shop-1", serial="0B")
    with pytest.raises(RefusedError, match="has renewed this certificate"):
        registry.check_certificate(node="shop-1", serial="0A")
    registry.check_certificate(node="shop-1", serial="0A", connected=True)  # its tunnel stays
    assert reason_not_to_renew(registry, "0A", now=DUE + 9999) == "certificate-replaced"
    assert [c.superseded for c in registry.certificates("shop-1")] == [None, DUE + 3]
    assert registry.revision() == revision
    node = registry.node("shop-1")
    assert node is not None
    assert (node.certificate_serial, node.created) == ("0B", NOW)
    assert [line.event for line in registry.audit()] == ["renew", "join"]


def test_a_renewal_has_its_time(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    enrol(registry, "shop-1", "0A")
    assert reason_not_to_renew(registry, "0A", now=DUE - 7200) == "renew-early"
    assert reason_not_to_renew(registry, "0B") == "certificate-replaced"
    assert renew(registry, "0B", "0A", now=DUE - 60).serial == "0B"
    assert renew(registry, "0C", "0A", now=DUE + 3600, key_hash=b"x" * 32).serial == "0C"


def test_the_revision_tells_of_what_takes_rights_away(registry: SqliteRegistry) -> None:
    revisions = [registry.revision()]

    def changed() -> bool:
        revisions.append(registry.revision())
        return revisions[-1] != revisions[-2]

    registry.add_token(token())
    registry.add_token(token("again", node="shop-1"))
    enrol(registry, "shop-1", "0A")
    registry.record_hello("shop-1", public_key=WG, pod_cidrs=[], software="1", now=NOW)
    registry.record_seen({"shop-1": NOW})
    registry.append_audit([audit(1)])
    assert not changed()
    enrol(registry, "shop-1", "0B", token_id="again", key_hash=b"n" * 32)
    assert changed()
    registry.remove_node("shop-1", now=NOW)
    assert changed()


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


def audit(number: int, target: str = "t") -> AuditRecord:
    return AuditRecord(
        time=NOW + number, event="connect", node="a", asker="b", target=target, verdict="allowed"
    )


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
