"""The CA that gateways share, as it comes into a state directory: at a start, or later, or interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from raven.errors import PeerError, RefusedError, StateError
from raven.pki.certificate import check_leaf_untrusted, load_ca_certificate, read_ca_untrusted
from raven.pki.identity import Role
from raven.pki.renewal import LEAF_LIFE
from raven.registry import shared_ca
from raven.registry.gateway_state import GatewayState, open_gateway
from raven.registry.shared_ca import SharedCa
from tests.pki.material import seeded
from tests.registry.records import shared

NOW = 1_800_000_000.0


def start(directory: Path, ca: SharedCa, *, now: float = NOW) -> GatewayState:
    """A gateway of the cluster that has this CA, started and closed again."""

    def share(directory: Path) -> None:
        if not shared_ca.is_held(directory, ca, now=now):
            shared_ca.adopt(directory, ca, now=now)

    state = open_gateway(directory, hosts=["gw.example.com"], now=now, share=share)
    state.close()
    return state


def is_of(state: GatewayState, ca: SharedCa) -> bool:
    """Whether the gateway shows a certificate by that CA."""
    authority = load_ca_certificate(ca.certificate_pem.encode())
    try:
        check_leaf_untrusted(
            state.certificate.read_text(), authority, role=Role.GATEWAY, cluster="test", now=NOW
        )
    except PeerError:
        return False
    return state.ca_pem == ca.certificate_pem


def test_a_first_start_takes_it_and_a_second_changes_nothing(tmp_path: Path) -> None:
    ca = shared()
    first = start(tmp_path / "gw", ca)
    assert is_of(first, ca)
    assert (first.cluster, first.previous) == ("test", None)
    before = first.certificate.read_bytes()
    assert start(tmp_path / "gw", ca).certificate.read_bytes() == before
    assert not (tmp_path / "gw" / "adopted").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_in_an_overlap_both_are_served_and_a_new_gateway_too(tmp_path: Path, fresh: bool) -> None:
    ca = shared()
    if not fresh:
        start(tmp_path / "gw", ca)
    rotated = shared_ca.rotated(ca, now=NOW, random=seeded(9))
    state = start(tmp_path / "gw", rotated)
    assert is_of(state, rotated)
    previous = state.previous
    assert previous is not None
    check_leaf_untrusted(
        previous.certificate.read_text(),
        read_ca_untrusted(ca.certificate_pem),
        role=Role.GATEWAY,
        cluster="test",
        now=NOW,
    )
    assert previous.own_ca.read_text() == ca.certificate_pem
    assert not list((tmp_path / "gw").rglob("previous.key"))
    ended = start(tmp_path / "gw", shared_ca.retired(rotated))
    assert ended.previous is None
    assert is_of(ended, rotated)


def test_a_gateway_that_runs_follows(tmp_path: Path) -> None:
    ca = shared()
    start(tmp_path, ca)
    state = open_gateway(tmp_path, hosts=["gw.example.com"], now=NOW)
    rotated = shared_ca.rotated(ca, now=NOW, random=seeded(9))
    for then, overlap in ((rotated, True), (shared_ca.retired(rotated), False)):
        assert not state.follow_rotation(now=NOW)
        shared_ca.adopt(tmp_path, then, now=NOW)
        assert state.follow_rotation(now=NOW)
        assert is_of(state, then)
        assert (state.previous is not None) is overlap
        assert shared_ca.is_held(tmp_path, then, now=NOW)
    state.close()


def test_a_gateway_that_missed_one_change_takes_the_next(tmp_path: Path) -> None:
    ca = shared()
    start(tmp_path, ca)
    second = shared_ca.retired(shared_ca.rotated(ca, now=NOW, random=seeded(9)))
    third = shared_ca.rotated(second, now=NOW, random=seeded(10))
    state = start(tmp_path, third)
    assert is_of(state, third)
    assert state.previous is not None
    assert state.previous.own_ca.read_text() == second.certificate_pem


def test_one_change_at_a_time_and_the_overlap_ends_by_itself() -> None:
    ca = shared()
    rotated = shared_ca.rotated(ca, now=NOW, random=seeded(9))
    with pytest.raises(RefusedError, match="still trusted"):
        shared_ca.rotated(rotated, now=NOW + LEAF_LIFE - 1, random=seeded(10))
    assert rotated.previous_at(NOW + LEAF_LIFE) is None
    shared_ca.rotated(rotated, now=NOW + LEAF_LIFE, random=seeded(10))
    with pytest.raises(RefusedError, match="no CA but the current one"):
        shared_ca.retired(ca)


@pytest.mark.parametrize("moved", range(8))
def test_an_interrupted_change_is_finished_by_the_next_start(
    tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = shared()
    start(tmp_path, ca)
    rotated = shared_ca.rotated(ca, now=NOW, random=seeded(9))
    moves = 0
    replace = Path.replace

    def stopping(self: Path, target: Path) -> Path:
        nonlocal moves
        if self.parent.name == "adopted":
            moves += 1
            if moves > moved:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stopping)
        try:
            start(tmp_path, rotated)
        except KeyboardInterrupt:
            pass
        else:
            assert moves <= moved
    state = open_gateway(tmp_path, hosts=["gw.example.com"], now=NOW)
    state.close()
    assert is_of(state, rotated)
    assert state.previous is not None
    assert shared_ca.is_held(tmp_path, rotated, now=NOW)


def test_a_ca_that_is_none_changes_nothing(tmp_path: Path) -> None:
    ca = shared()
    start(tmp_path, ca)
    broken = SharedCa(cluster="test", certificate_pem=ca.certificate_pem, key_pem=shared(seed=5).key_pem)
    with pytest.raises(StateError, match="cannot be used"):
        shared_ca.adopt(tmp_path, broken, now=NOW)
    assert shared_ca.is_held(tmp_path, ca, now=NOW)


def test_an_own_ca_can_be_shared_but_not_in_an_overlap(tmp_path: Path) -> None:
    assert shared_ca.load_own(tmp_path) is None
    opened = open_gateway(tmp_path, hosts=["gw.example.com"], cluster="test", now=NOW, random=seeded(3))
    opened.close()
    own = shared_ca.load_own(tmp_path)
    assert own is not None
    assert shared_ca.pin(own) == opened.authority.pin
    shared_ca.adopt(tmp_path, shared_ca.rotated(own, now=NOW, random=seeded(9)), now=NOW)
    open_gateway(tmp_path, hosts=["gw.example.com"], now=NOW).close()
    with pytest.raises(StateError, match="two CAs are trusted here"):
        shared_ca.load_own(tmp_path)
