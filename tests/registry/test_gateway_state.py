import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raven.errors import ConfigError, StateError
from raven.pki.certificate import load_leaf
from raven.pki.renewal import LEAF_LIFE
from raven.registry.gateway_state import GatewayState, open_gateway, read_pin
from raven.wg.primitives import DhPrivateKey
from tests.pki.material import NOW, make_authority, make_key, seeded
from tests.registry.disks import fill, small_disk

FILES = ["ca.crt", "ca.key", "cluster", "gateway.crt", "gateway.key", "lock", "wg.key"]


def start(directory: Path, *, seed: int = 1, now: float = NOW, **given: Any) -> GatewayState:
    """Opens the state as a gateway would, and lets go of it as if it had been stopped."""
    given = {"hosts": ["gw.example.com"]} | given
    state = open_gateway(directory, now=now, random=seeded(seed), **given)
    state.close()
    return state


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    start(path)
    return path


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}


def test_the_first_start_makes_everything_private(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == FILES
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_next_start_finds_the_same(directory: Path) -> None:
    before = content(directory)
    state = start(directory, seed=2, now=NOW + 86400)
    assert content(directory) == before
    assert not state.first_start
    assert state.authority.pin == read_pin(directory, now=NOW)
    assert state.wg_public_key == DhPrivateKey(state.wg_private_key).public
    assert state.leaf.hosts == ("gw.example.com",)
    assert state.certificate.exists()
    assert state.key.exists()
    assert state.ca.exists()
    assert state.registry == directory / "registry.sqlite"


def test_a_cluster_is_named_once(tmp_path: Path) -> None:
    assert start(tmp_path / "a", cluster="berlin").cluster == "berlin"
    assert start(tmp_path / "a").cluster == "berlin"
    with pytest.raises(ConfigError, match="belongs to cluster berlin"):
        start(tmp_path / "a", cluster="paris")
    names = {start(tmp_path / str(seed), seed=seed).cluster for seed in range(3)}
    assert len(names) == 3
    assert all(len(name) == 8 for name in names)


@pytest.mark.parametrize(
    "given",
    [{"name": "GW"}, {"name": ""}, {"cluster": "a.b"}, {"cluster": ""}, {"hosts": ["bücher.example"]}],
)
def test_names_that_cannot_be_used_are_configuration_errors(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        start(tmp_path / "state", **given)
    assert start(tmp_path / "state").name == "gateway"


def test_a_changed_host_or_name_changes_the_certificate_and_nothing_else(directory: Path) -> None:
    before = content(directory)
    assert start(directory, seed=2, hosts=["192.0.2.1", "gw.example.com"]).leaf.hosts == (
        "192.0.2.1",
        "gw.example.com",
    )
    changed = {name for name, data in content(directory).items() if data != before[name]}
    assert changed == {"gateway.crt"}
    assert start(directory, name="gw-2").leaf.identity.name == "gw-2"
    middle = content(directory)
    start(directory, name="gw-2", hosts=["GW.example.com"])  # the same in another spelling
    assert content(directory) == middle


def test_a_certificate_near_its_end_is_replaced_at_start_and_while_running(directory: Path) -> None:
    late = NOW + LEAF_LIFE * 0.7
    assert start(directory, now=late).leaf.not_before > NOW
    state = open_gateway(directory, hosts=["gw.example.com"], now=late, random=seeded(3))
    assert not state.renew_if_due(now=late)
    assert state.renew_if_due(now=late + LEAF_LIFE * 0.7)
    assert load_leaf(state.certificate.read_bytes()) == state.leaf
    assert state.authority.issued(state.leaf)
    assert not state.renew_if_due(now=late + LEAF_LIFE * 0.7)
    state.close()


def test_a_certificate_of_the_future_is_replaced(directory: Path) -> None:
    assert start(directory, now=NOW - 86400).leaf.not_before < NOW - 86400


def test_one_gateway_at_a_time(directory: Path) -> None:
    state = open_gateway(directory, hosts=[], now=NOW)
    with pytest.raises(StateError, match=rf"in use by raven-gateway \(process {os.getpid()}\)"):
        open_gateway(directory, hosts=[], now=NOW)
    assert read_pin(directory, now=NOW) == state.authority.pin  # what makes tokens needs no lock
    state.close()
    start(directory)


def test_gateways_that_start_at_once_make_one_ca(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from raven.registry.gateway_state import open_gateway\n"
        "from raven.errors import StateError\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: state = open_gateway(pathlib.Path(sys.argv[1]), hosts=[], now=1_800_000_000.0)\n"
        "except StateError as error: print(error, flush=True)\n"
        "else: print('pin', state.authority.pin.hex(), flush=True)\n"
        "sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    starts = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = []
    try:
        for one in starts:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in starts:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        for one in starts:
            assert one.stdout is not None
            said.append(one.stdout.readline())
    finally:
        for one in starts:
            one.communicate("end\n", timeout=20)
    winners = [line for line in said if line.startswith("pin ")]
    assert winners == [f"pin {read_pin(tmp_path / 'state', now=NOW).hex()}\n"]
    assert sum(": in use by " in line for line in said) == 2


@pytest.mark.parametrize("written", range(7))
def test_an_interrupted_first_start_is_completed(tmp_path: Path, written: int) -> None:
    """Killed at its Nth write, whatever it had made so far is used by the next start."""
    code = (
        "import sys, pathlib; from raven.registry import files\n"
        "from raven.registry.gateway_state import open_gateway\n"
        "write, left = files.write, [int(sys.argv[2])]\n"
        "def counted(path, data):\n"
        "    if not left[0]: import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left[0] -= 1; write(path, data)\n"
        "files.write = counted\n"
        "open_gateway(pathlib.Path(sys.argv[1]), hosts=[], now=1_800_000_000.0)\n"
    )
    directory = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory), str(written)],
        timeout=20,
        check=False,
        capture_output=True,
    )
    assert done.returncode == (-signal.SIGKILL if written < 6 else 0), done.stderr
    before = content(directory)
    start(directory, hosts=[])
    after = content(directory)
    assert {name: after[name] for name in before} == before
    assert sorted(after) == [name for name in FILES if name != "lock"]


@pytest.mark.parametrize("name", ["ca.key", "ca.crt", "cluster", "gateway.key", "gateway.crt", "wg.key"])
@pytest.mark.parametrize("damage", [b"", b"scribble!", b"\xff\x00" * 50], ids=["empty", "text", "binary"])
def test_a_corrupt_file_is_named_kept_and_never_replaced(directory: Path, name: str, damage: bytes) -> None:
    secret = (directory / "ca.key").read_bytes().splitlines()[1].decode()
    (directory / name).write_bytes(damage)
    before = content(directory)
    for _ in range(2):
        with pytest.raises(StateError) as caught:
            start(directory, seed=2)
        assert str(caught.value).startswith(f"{directory / name}: ")
        assert f"A copy is kept as {name}.corrupt-" in str(caught.value)
        assert secret not in str(caught.value)
    kept = content(directory)
    (copy,) = set(kept) - set(before)
    assert kept == before | {copy: damage}


def test_files_of_two_clusters_are_not_mixed(directory: Path) -> None:
    (directory / "ca.crt").write_text(make_authority(seed=9).certificate_pem)
    with pytest.raises(StateError, match=r"ca.crt: .*do not belong together"):
        start(directory)


def test_a_lost_ca_key_is_not_made_anew(directory: Path) -> None:
    (directory / "ca.key").unlink()
    with pytest.raises(StateError, match=r"ca\.key: missing, while the rest of the cluster is there"):
        start(directory)
    (directory / "ca.crt").unlink()
    (directory / "registry.sqlite").touch()
    with pytest.raises(StateError, match=r"ca\.key: missing"):
        start(directory)


def test_a_lost_ca_certificate_is_made_anew_for_the_same_key(directory: Path) -> None:
    pin = read_pin(directory, now=NOW)
    (directory / "ca.crt").unlink()
    state = start(directory, seed=5)
    assert state.authority.pin == pin
    assert state.authority.issued(state.leaf)


def test_a_leaf_of_another_key_or_ca_is_replaced(directory: Path) -> None:
    (directory / "gateway.key").unlink()
    state = start(directory, seed=5)
    assert state.authority.issued(state.leaf)
    foreign = make_authority(state.cluster, seed=9).issue_gateway(
        "gateway", make_key(5).public_key(), hosts=["gw.example.com"], now=NOW, random=seeded()
    )
    (directory / "gateway.crt").write_text(foreign.pem)
    state = start(directory)
    assert state.authority.issued(state.leaf)


def test_a_key_others_may_read_is_refused(directory: Path) -> None:
    (directory / "ca.key").chmod(0o644)
    with pytest.raises(
        StateError, match=r"ca.key: a private key that others may read \(mode 644\); chmod 600"
    ):
        start(directory)


def test_no_secret_is_ever_shown(directory: Path) -> None:
    state = start(directory)
    for name in ("ca.key", "gateway.key", "wg.key"):
        for line in (directory / name).read_text().splitlines():
            assert line.startswith("-----") or line not in repr(state)


def test_there_is_no_pin_where_there_is_no_gateway(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=f"{tmp_path}: no gateway's state here"):
        read_pin(tmp_path, now=NOW)
    (tmp_path / "ca.crt").write_text("scribble")
    with pytest.raises(StateError, match=r"ca\.crt: not a certificate in PEM"):
        read_pin(tmp_path, now=NOW)


@pytest.mark.netns
def test_a_full_disk_at_the_first_start_is_named_and_survived(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        ballast = fill(disk)
        with pytest.raises(StateError, match=r"disk/cluster: cannot write: No space left on device"):
            start(disk)
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "lock"]
        ballast.unlink()
        assert start(disk).first_start
