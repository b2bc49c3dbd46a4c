"""Certificates in the registry: which one is good, when it is renewed, and what takes it away."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven.errors import RefusedError
from raven.pki.renewal import LEAF_LIFE
from raven.registry.interface import CertificateRecord, Registry
from raven.registry.sqlite import SqliteRegistry
from tests.registry.records import NOW, WG, audit, enrol, issuing, token


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SqliteRegistry]:
    with contextlib.closing(SqliteRegistry(tmp_path / "registry.sqlite", now=NOW)) as opened:
        yield opened


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
