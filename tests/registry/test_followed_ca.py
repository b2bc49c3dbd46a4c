"""The CA of a gateway that follows another one: what it believes, and what an interruption leaves."""

import os
import shutil
from pathlib import Path

import pytest

from raven.errors import PeerError
from raven.keys import PrivateKey
from raven.pki.ca import Authority
from raven.pki.certificate import pin_of
from raven.pki.csr import key_pem, new_key
from raven.pki.renewal import LEAF_LIFE
from raven.registry.follower_state import FollowerDraft, FollowerFile
from raven.registry.gateway_state import GatewayState, open_gateway
from tests.pki.material import NOW

FIRST = Authority.create("lab", new_key(os.urandom), now=NOW, random=os.urandom)
SECOND = Authority.create("lab", new_key(os.urandom), now=NOW, random=os.urandom)
THIRD = Authority.create("lab", new_key(os.urandom), now=NOW, random=os.urandom)
LINK = FIRST.vouch_for(SECOND, now=NOW, random=os.urandom)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a gateway that has joined under FIRST."""
    key = new_key(os.urandom)
    draft = FollowerDraft(
        tmp_path / "gateway",
        force=False,
        make_keys=lambda: (key_pem(key), PrivateKey.clamped(os.urandom(32))),
        now=NOW,
    )
    leaf = FIRST.issue_gateway("gw-2", key.public_key(), hosts=["gw"], now=NOW, random=os.urandom)
    draft.finish(
        certificate_pem=leaf.pem,
        ca_pem=FIRST.certificate_pem,
        follower=FollowerFile(name="gw-2", cluster="lab", address="gw:1", followed="gw-1:1"),
    )
    draft.close()
    return tmp_path / "gateway"


def opened(directory: Path, *, now: float = NOW) -> GatewayState:
    state = open_gateway(directory, hosts=["gw"], name="gw-2", now=now)
    state.close()
    return state


def test_a_ca_that_is_vouched_for_is_taken_and_both_are_trusted(directory: Path) -> None:
    state = opened(directory)
    assert state.follow_ca(ca_pem=SECOND.certificate_pem, link_pem=LINK, overlap=True)
    assert state.follow_rotation(now=NOW)
    assert not state.follow_rotation(now=NOW)
    for one in (state, opened(directory)):
        assert one.pin == SECOND.pin
        assert one.previous is not None
        assert one.previous.link_pem == LINK
        assert one.ca.read_text() == SECOND.certificate_pem + FIRST.certificate_pem
        assert one.previous.certificate.read_text() == one.leaf.pem  # until the next one is granted
    assert not state.follow_ca(ca_pem=SECOND.certificate_pem, link_pem=LINK, overlap=True)
    assert state.follow_ca(ca_pem=SECOND.certificate_pem, link_pem="", overlap=False)
    for one in (state, opened(directory)):
        assert (one.pin, one.previous) == (SECOND.pin, None)
        assert one.ca.read_text() == SECOND.certificate_pem


@pytest.mark.parametrize(
    ("ca_pem", "link"),
    [
        (SECOND.certificate_pem, ""),
        (THIRD.certificate_pem, LINK),
        (THIRD.certificate_pem, THIRD.certificate_pem),
        ("", LINK),
        (SECOND.certificate_pem[:-40], LINK),
    ],
)
def test_who_has_a_gateways_key_does_not_become_the_ca(directory: Path, ca_pem: str, link: str) -> None:
    state = opened(directory)
    with pytest.raises(PeerError):
        state.follow_ca(ca_pem=ca_pem, link_pem=link, overlap=True)
    assert opened(directory).pin == FIRST.pin == state.pin


def test_the_overlap_ends_with_the_old_certificate(directory: Path) -> None:
    state = opened(directory)
    state.follow_ca(ca_pem=SECOND.certificate_pem, link_pem=LINK, overlap=True)
    state.follow_rotation(now=NOW)
    assert not state.follow_rotation(now=NOW + LEAF_LIFE - 9)
    assert state.follow_rotation(now=NOW + LEAF_LIFE + 9)
    assert state.previous is None
    assert not (directory / "trust.crt").exists()


@pytest.mark.parametrize("moved", range(5))
def test_an_interrupted_change_is_finished_by_the_next_start(directory: Path, moved: int) -> None:
    before = directory.parent / "before"
    shutil.copytree(directory, before)
    opened(directory).follow_ca(ca_pem=SECOND.certificate_pem, link_pem=LINK, overlap=True)
    switching = before / "switching"
    switching.mkdir(mode=0o700)
    for name, content in (
        ("gateway.crt", (before / "gateway.crt").read_text()),
        ("link.crt", LINK),
        ("old.crt", FIRST.certificate_pem),
        ("ca.crt", SECOND.certificate_pem),
    ):
        (switching / name).write_text(content)
    (before / "previous").mkdir(mode=0o700)
    steps = [
        ("gateway.crt", "previous/gateway.crt"),
        ("link.crt", "previous/link.crt"),
        ("old.crt", "previous/ca.crt"),
        ("ca.crt", "ca.crt"),
    ]
    for name, target in steps[:moved]:
        (switching / name).replace(before / target)
    state = opened(before)
    assert state.pin == pin_of(SECOND.certificate)
    assert not switching.exists()
    for path in directory.rglob("*"):
        if path.is_file() and path.name != "lock":
            assert (before / path.relative_to(directory)).read_bytes() == path.read_bytes(), path
