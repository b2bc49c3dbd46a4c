import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from raven.errors import StateError
from raven.keys import PrivateKey
from raven.registry.agent_state import AgentState, JoinDraft, open_agent
from raven.registry.gateway_state import open_gateway
from raven.wg.primitives import DhPrivateKey
from tests.pki.material import NOW
from tests.registry.disks import fill, small_disk
from tests.registry.identities import finish, join, keys

FILES = ["agent.json", "ca.crt", "lock", "node.crt", "node.key", "wg.key"]


def unused() -> tuple[bytes, PrivateKey]:
    raise AssertionError("keys of the earlier attempt should have been used")


def opened(directory: Path) -> AgentState:
    state = open_agent(directory, now=NOW)
    state.close()
    return state


def test_a_join_leaves_an_identity_that_loads(tmp_path: Path) -> None:
    directory = tmp_path / "agent"
    joined = join(directory)
    assert sorted(path.name for path in directory.iterdir()) == FILES
    for path in (directory, *directory.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    state = opened(directory)
    assert (state.node, state.cluster, state.gateways) == ("shop-1", "lab", ("gw.example.com:443",))
    assert (state.wg_private_key, state.wg_public_key) == (joined.wg_private_key, joined.wg_public_key)
    assert state.wg_public_key == DhPrivateKey(state.wg_private_key).public


def test_the_running_agent_loads_its_identity_without_cryptography(tmp_path: Path) -> None:
    join(tmp_path / "agent")
    code = (
        "import pathlib, sys, raven.net.tls; from raven.registry.agent_state import open_agent\n"
        "raven.net.tls.agent_context(open_agent(pathlib.Path(sys.argv[1]), now=0))\n"
        "heavy = {'cryptography', 'numpy', 'sqlite3', 'pyroute2'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "agent")]
    assert subprocess.run(command, capture_output=True, timeout=20, check=True).stdout == b"[]\n"


def test_an_identity_is_not_replaced_by_accident(tmp_path: Path) -> None:
    join(tmp_path)
    with pytest.raises(StateError, match=r"already joined as node shop-1 of cluster lab; --force"):
        JoinDraft(tmp_path, force=False, make_keys=unused, now=NOW)
    assert opened(tmp_path).node == "shop-1"
    assert join(tmp_path, 2, force=True).node == opened(tmp_path).node == "shop-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_a_failed_join_keeps_its_keys_for_the_next_attempt(tmp_path: Path) -> None:
    first = JoinDraft(tmp_path, force=False, make_keys=lambda: keys(1), now=NOW)
    first.close()
    with pytest.raises(StateError, match="no identity here"):
        opened(tmp_path)
    again = JoinDraft(tmp_path, force=False, make_keys=unused, now=NOW)
    assert (again.key_pem, again.wg_private_key) == (first.key_pem, first.wg_private_key)
    assert finish(again, 1).node == "shop-1"
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_a_failed_join_leaves_the_old_identity_alone(tmp_path: Path) -> None:
    join(tmp_path)
    JoinDraft(tmp_path, force=True, make_keys=lambda: keys(2), now=NOW).close()
    assert opened(tmp_path).node == "shop-1"


def test_half_written_keys_of_an_earlier_attempt_are_made_anew(tmp_path: Path) -> None:
    JoinDraft(tmp_path, force=False, make_keys=lambda: keys(1), now=NOW).close()
    (tmp_path / ".joining" / "wg.key").unlink()
    draft = JoinDraft(tmp_path, force=False, make_keys=lambda: keys(2), now=NOW)
    assert (draft.key_pem, draft.wg_private_key) == keys(2)
    draft.close()


INTERRUPTED = """
import os, pathlib, signal, sys
sys.path.insert(0, {root!r})
from tests.registry.identities import finish, keys
from raven.registry.agent_state import JoinDraft
replace, left = pathlib.Path.replace, [int(sys.argv[2])]
def counted(self, target):
    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1; return replace(self, target)
draft = JoinDraft(pathlib.Path(sys.argv[1]), force=True, make_keys=lambda: keys(2), now=0)
pathlib.Path.replace = counted
finish(draft, 2)
"""


@pytest.mark.parametrize("renames", range(9))
def test_an_interrupted_join_leaves_one_whole_identity(tmp_path: Path, renames: int) -> None:
    """Killed before its Nth rename: three renames prepare, and from the third on the join counts."""
    join(tmp_path)
    code = INTERRUPTED.format(root=str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", code, str(tmp_path), str(renames)]
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert done.returncode == (-signal.SIGKILL if renames < 8 else 0), done.stderr
    state = opened(tmp_path)
    expected = 1 if renames < 3 else 2
    assert state.node == f"shop-{expected}"
    assert state.wg_private_key == keys(expected)[1]
    assert state.key.read_bytes() == keys(expected)[0]
    assert opened(tmp_path).node == state.node


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    join(tmp_path)
    state = open_agent(tmp_path, now=NOW)
    for attempt in (
        lambda: open_agent(tmp_path, now=NOW),
        lambda: JoinDraft(tmp_path, force=True, make_keys=unused, now=NOW),
    ):
        with pytest.raises(StateError, match=rf"in use by raven-agent \(process {os.getpid()}\)"):
            attempt()
    state.close()
    opened(tmp_path)


def test_a_gateway_and_an_agent_do_not_share_a_directory(tmp_path: Path) -> None:
    open_gateway(tmp_path / "gateway", hosts=[], now=NOW).close()
    with pytest.raises(StateError, match="a gateway's state is here"):
        JoinDraft(tmp_path / "gateway", force=True, make_keys=unused, now=NOW)
    join(tmp_path / "agent")
    with pytest.raises(StateError, match="an agent's state is here"):
        open_gateway(tmp_path / "agent", hosts=[], now=NOW)


def test_an_agent_that_never_joined_is_told_how(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(StateError, match=f"{directory}: no identity here; `raven-agent join` makes it"):
            opened(directory)
    assert not (tmp_path / "none").exists()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    path.write_bytes(b"\xff scribble")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("name", ["agent.json", "ca.crt", "node.crt", "node.key", "wg.key"])
@pytest.mark.parametrize("damage", [empty, scribble, cut])
def test_a_corrupt_file_is_named_and_kept(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    join(tmp_path)
    damage(tmp_path / name)
    for _ in range(2):
        with pytest.raises(StateError) as caught:
            opened(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert f"A copy is kept as {name}.corrupt-" in str(caught.value)
    assert len(list(tmp_path.glob("*.corrupt-*"))) == 1


@pytest.mark.parametrize("name", ["ca.crt", "node.crt", "node.key", "wg.key"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    join(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StateError, match=f"{tmp_path / name}: cannot read: No such file"):
        opened(tmp_path)


def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    join(tmp_path)
    (tmp_path / "node.key").write_bytes(keys(2)[0])
    with pytest.raises(StateError, match=r"node.key: not the key of node.crt"):
        opened(tmp_path)


def test_agent_json_says_what_does_not_fit(tmp_path: Path) -> None:
    join(tmp_path)
    content = msgspec.json.decode((tmp_path / "agent.json").read_bytes())
    for change, problem in [
        ({"node": 7}, r"\$.node"),
        ({"wg_public_key": "x"}, "wg_public_key: a PublicKey"),
    ]:
        (tmp_path / "agent.json").write_bytes(msgspec.json.encode(content | change))
        with pytest.raises(StateError, match=rf"agent.json: .*{problem}"):
            opened(tmp_path)


def test_a_key_others_may_read_is_refused(tmp_path: Path) -> None:
    join(tmp_path)
    (tmp_path / "node.key").chmod(0o644)
    with pytest.raises(StateError, match=r"node\.key: a private key that others may read"):
        opened(tmp_path)


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    state = join(tmp_path)
    for name in ("node.key", "wg.key"):
        for line in (tmp_path / name).read_text().splitlines():
            assert line.startswith("-----") or line not in repr(state)


@pytest.mark.netns
def test_a_full_disk_is_found_before_the_token_is_spent(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        ballast = fill(disk)
        with pytest.raises(StateError, match="No space left on device"):
            JoinDraft(disk, force=False, make_keys=lambda: keys(1), now=NOW)
        ballast.unlink()
        draft = JoinDraft(disk, force=False, make_keys=lambda: keys(1), now=NOW)
        ballast = fill(disk)
        with pytest.raises(StateError, match="No space left on device"):
            finish(draft, 1)
        draft.close()
        ballast.unlink()
        draft = JoinDraft(disk, force=False, make_keys=unused, now=NOW)
        assert finish(draft, 1).node == "shop-1"
