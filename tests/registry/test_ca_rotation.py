"""Changing the CA on disk: at every interruption the next start finds one CA whole."""

import os
import shutil
from pathlib import Path

import pytest

from raven.errors import RefusedError, StateError
from raven.pki.certificate import check_link_untrusted, load_ca_certificate, load_leaf, pin_of
from raven.pki.renewal import LEAF_LIFE
from raven.registry import ca_rotation
from raven.registry.gateway_state import GatewayState, open_gateway
from tests.pki.material import NOW, seeded


def opened(directory: Path, *, now: float = NOW) -> GatewayState:
    state = open_gateway(directory, hosts=["gw"], cluster="lab", now=now, random=seeded(int(now) % 1000))
    state.close()
    return state


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    opened(tmp_path / "gateway")
    return tmp_path / "gateway"


def rotated(directory: Path, *, now: float = NOW + 1) -> GatewayState:
    ca_rotation.stage(directory, now=now, random=seeded(6 + int(now - NOW)))
    return opened(directory, now=now)


def test_both_are_trusted_and_the_old_key_is_gone(directory: Path) -> None:
    before = opened(directory)
    old_key = (directory / "ca.key").read_bytes()
    after = rotated(directory)
    assert after.authority.pin != before.authority.pin
    assert after.authority.issued(after.leaf)
    assert after.previous is not None
    old_leaf = load_leaf(after.previous.certificate.read_bytes())
    assert before.authority.issued(old_leaf)
    assert old_leaf.key_hash == after.leaf.key_hash
    known = load_ca_certificate(after.previous.own_ca.read_bytes())
    assert pin_of(known) == before.authority.pin
    check_link_untrusted(after.previous.link_pem, known, after.authority.certificate)
    assert after.ca.read_bytes() == (directory / "ca.crt").read_bytes() + after.previous.own_ca.read_bytes()
    assert all(path.read_bytes() != old_key for path in directory.rglob("*") if path.is_file())
    assert opened(directory).authority.pin == after.authority.pin


def test_nothing_changes_until_the_next_start(directory: Path) -> None:
    before = opened(directory)
    with_lock = open_gateway(directory, hosts=["gw"], cluster="lab", now=NOW)
    ca_rotation.stage(directory, now=NOW, random=seeded(7))
    following = ca_rotation.stage(directory, now=NOW, random=seeded(8))  # the last call counts
    assert pin_of(load_ca_certificate((directory / "ca.crt").read_bytes())) == before.authority.pin
    with_lock.close()
    assert opened(directory).authority.pin == following.pin


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can own files of somebody else")
def test_what_root_stages_is_the_gateways(directory: Path) -> None:
    """`raven-gateway ca rotate` by root, where the gateway runs as another user."""
    nobody = 65534
    for path in (directory, *directory.rglob("*")):
        os.chown(path, nobody, nobody)
    ca_rotation.stage(directory, now=NOW + 1, random=seeded(7))
    assert {path.stat().st_uid for path in directory.rglob("*")} == {nobody}
    opened(directory, now=NOW + 1)
    ca_rotation.retire(directory)
    assert (directory / "previous" / "retired").stat().st_uid == nobody


def test_one_change_at_a_time_and_a_way_to_end_it(directory: Path) -> None:
    with pytest.raises(RefusedError, match="no CA but the current one"):
        ca_rotation.retire(directory)
    pin = rotated(directory).authority.pin
    with pytest.raises(RefusedError, match="still trusted"):
        ca_rotation.stage(directory, now=NOW, random=seeded(8))
    ca_rotation.retire(directory)
    assert opened(directory).previous is None
    assert not (directory / "previous").exists()
    assert not (directory / "trust.crt").exists()
    assert rotated(directory, now=NOW + 9).authority.pin != pin


def test_the_overlap_ends_with_the_old_certificate(directory: Path) -> None:
    rotated(directory)
    assert opened(directory, now=NOW + LEAF_LIFE - 9).previous is not None
    assert opened(directory, now=NOW + LEAF_LIFE + 9).previous is None


def test_a_staged_ca_that_is_not_whole_is_none(directory: Path) -> None:
    before = opened(directory)
    ca_rotation.stage(directory, now=NOW, random=seeded(7))
    (directory / "next" / "ca.crt").unlink()
    assert opened(directory).authority.pin == before.authority.pin


@pytest.mark.parametrize("moved", range(6))
def test_an_interrupted_change_is_finished_by_the_next_start(directory: Path, moved: int) -> None:
    rotated(directory.parent / "gateway")
    whole = {
        path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    before = directory.parent / "before"
    opened(before)
    ca_rotation.stage(before, now=NOW + 1, random=seeded(7))
    switching = before / "switching"
    (before / "next").rename(switching)
    shutil.copy(directory / "previous" / "gateway.crt", switching / "gateway.crt")
    shutil.copy(before / "ca.crt", switching / "old.crt")
    (before / "previous").mkdir(mode=0o700)
    steps = [
        ("gateway.crt", "previous/gateway.crt"),
        ("link.crt", "previous/link.crt"),
        ("old.crt", "previous/ca.crt"),
        ("ca.crt", "ca.crt"),
        ("ca.key", "ca.key"),
    ]
    for name, target in steps[:moved]:
        (switching / name).replace(before / target)
    state = opened(before, now=NOW + 1)
    assert not switching.exists()
    assert state.previous is not None
    assert state.authority.issued(state.leaf)
    assert {path.relative_to(before) for path in before.rglob("*") if path.is_file()} == set(whole)


def test_a_damaged_ca_is_not_rotated(directory: Path) -> None:
    (directory / "ca.key").write_bytes(b"scribble")
    with pytest.raises(StateError, match="not a CA"):
        ca_rotation.stage(directory, now=NOW, random=seeded(7))
