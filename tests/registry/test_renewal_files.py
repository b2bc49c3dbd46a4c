"""A renewal interrupted at every step leaves one whole identity."""

import shutil
from pathlib import Path

import pytest

from raven.pki.certificate import load_leaf
from raven.pki.csr import key_hash, key_pem, load_key
from raven.registry.agent_state import open_agent
from raven.registry.renewal_files import finish_renewal, install, pending_key
from tests.pki.material import NOW, make_authority, make_key, seeded
from tests.registry.identities import join

CA = make_authority()
NEXT = CA.issue_node("shop-1", make_key(9).public_key(), now=NOW, random=seeded(9))


def is_key(pem: bytes) -> bool:
    return pem.startswith(b"-----BEGIN PRIVATE KEY")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    join(tmp_path / "agent")
    return tmp_path / "agent"


def identity(directory: Path) -> str:
    """The serial on disk, once key and certificate are known to belong together."""
    open_agent(directory, now=NOW).close()
    leaf = load_leaf((directory / "node.crt").read_bytes())
    assert key_hash(load_key((directory / "node.key").read_bytes()).public_key()) == leaf.key_hash
    return leaf.serial


def test_key_and_certificate_move_up_together(directory: Path) -> None:
    old = identity(directory)
    assert pending_key(directory, lambda: key_pem(make_key(9)), is_key) == key_pem(make_key(9))
    assert identity(directory) == old
    install(directory, NEXT.pem)
    assert not (directory / ".renewing").exists()
    assert identity(directory) == NEXT.serial != old


def test_a_key_that_waits_is_used_again_unless_it_is_none(directory: Path) -> None:
    first = pending_key(directory, lambda: key_pem(make_key(9)), is_key)
    assert pending_key(directory, lambda: key_pem(make_key(8)), is_key) == first
    (directory / ".renewing" / "node.key").write_bytes(b"\0" * 100)
    assert pending_key(directory, lambda: key_pem(make_key(8)), is_key) == key_pem(make_key(8))


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_an_interruption_leaves_one_whole_identity(directory: Path, done: int) -> None:
    old = identity(directory)
    pending = directory / ".renewing"
    pending_key(directory, lambda: key_pem(make_key(9)), is_key)
    if done >= 1:
        (pending / "node.crt").write_text(NEXT.pem)
    if done >= 2:
        (pending / "node.key").replace(directory / "node.key")
    if done >= 3:
        (pending / "node.crt").replace(directory / "node.crt")
    assert identity(directory) == (NEXT.serial if done else old)


def test_nothing_happens_without_a_renewal(directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    finish_renewal(directory)
    shutil.rmtree(directory / ".renewing", ignore_errors=True)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
