"""State directories, whole and damaged; `tests.cli.test_doctor` has those that daemons made."""

import shutil
import time
from pathlib import Path

import pytest

from raven.diagnosis.finding import Finding
from raven.diagnosis.own_state import read_state, registry, role_of
from raven.registry.gateway_state import open_gateway
from raven.registry.sqlite import SqliteRegistry


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway's directory as a first start leaves it."""
    directory = tmp_path_factory.mktemp("state") / "gateway"
    state = open_gateway(directory, hosts=["gw.example"], now=time.time())
    SqliteRegistry(state.registry, now=time.time()).close()
    state.close()
    return directory


@pytest.fixture
def gateway(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "gateway"))


def broken(findings: list[Finding]) -> list[str]:
    return [f"{Path(f.about).name}: {f.said}" for f in findings if f.result == "broken"]


def test_a_whole_one(gateway: Path) -> None:
    state = read_state(gateway, "gateway")
    assert role_of(gateway) == "gateway"
    assert [finding.result for finding in state.findings] == ["ok"]
    assert "CA pin " in state.findings[0].said
    assert state.leaf is not None


def test_whose_it_is(tmp_path: Path) -> None:
    assert role_of(tmp_path) == ""
    assert role_of(tmp_path / "absent") == ""
    (tmp_path / "agent.json").touch()
    assert role_of(tmp_path) == "agent"


def test_what_is_missing_is_named(gateway: Path) -> None:
    (gateway / "wg.key").unlink()
    (gateway / "gateway.key").unlink()
    assert broken(read_state(gateway, "gateway").findings) == ["gateway.key: gateway.key, wg.key missing"]


@pytest.mark.parametrize("name", ["ca.crt", "gateway.crt", "gateway.key"])
def test_what_is_damaged_is_named(gateway: Path, name: str) -> None:
    (gateway / name).write_text("junk")
    (told,) = broken(read_state(gateway, "gateway").findings)
    assert told.startswith(f"{name}: not a ")
    assert not list(gateway.glob("*.corrupt-*")), "copies are for the daemon to keep"


def test_a_key_of_another(gateway: Path) -> None:
    shutil.copy(gateway / "ca.key", gateway / "gateway.key")
    assert broken(read_state(gateway, "gateway").findings) == ["gateway.key: not the key of gateway.crt"]


def test_registries(gateway: Path) -> None:
    path = gateway / "registry.sqlite"
    sound = registry(path, now=time.time())
    assert (sound.result, sound.said) == ("ok", "sound; 0 nodes joined")
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    spoiled = registry(path, now=time.time())
    assert (spoiled.hop, spoiled.result) == ("registry", "broken")
    assert "backup" in spoiled.next
