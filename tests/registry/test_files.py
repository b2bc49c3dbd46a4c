import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from raven.errors import StateError
from raven.registry import files
from tests.registry.disks import fill, small_disk

NOW = 1_800_000_000.0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"", b"two" * 1000):
        files.write(path, data)
        assert files.read(path, secret=True) == data
    assert mode(path) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.write(tmp_path / "file", b"x")
        files.make_directory(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o600
    assert mode(tmp_path / "a" / "b") == 0o700


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=f"{tmp_path}/none: cannot read: No such file"):
        files.read(tmp_path / "none")
    with pytest.raises(StateError, match=f"{tmp_path}: cannot read: Is a directory"):
        files.read(tmp_path)
    with pytest.raises(StateError, match=f"{tmp_path}/no/file: cannot write: No such file"):
        files.write(tmp_path / "no" / "file", b"x")
    (tmp_path / "big").write_bytes(bytes(files.FILE_MAX + 1))
    with pytest.raises(StateError, match="big: larger than"):
        files.read(tmp_path / "big")


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    files.write(path, b"x")
    path.chmod(0o640)
    assert files.read(path) == b"x"
    with pytest.raises(StateError, match=r"others may read \(mode 640\); chmod 600"):
        files.read(path, secret=True)


def test_an_empty_directory_is_tightened_and_a_used_one_is_not(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    files.make_directory(empty)
    assert mode(empty) == 0o700
    used = tmp_path / "used"
    used.mkdir(mode=0o755)
    (used / "file").touch()
    files.make_directory(used)
    assert mode(used) == 0o755
    used.chmod(0o1777)
    with pytest.raises(StateError, match="others may write"):
        files.make_directory(used)


def test_a_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file: cannot make this directory"):
        files.make_directory(tmp_path / "file")


def test_a_corrupt_file_stays_and_is_copied_once(tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(b"scribble")
    for later in range(3):
        error = files.corrupt(path, "not a certificate", "Restore it", now=NOW + later)
        assert (
            "ca.crt: not a certificate. A copy is kept as ca.crt.corrupt-20270115T080000Z. Restore it"
            in str(error)
        )
    copy = tmp_path / "ca.crt.corrupt-20270115T080000Z"
    assert sorted(tmp_path.iterdir()) == [path, copy]
    assert (path.read_bytes(), copy.read_bytes(), mode(copy)) == (b"scribble", b"scribble", 0o600)
    path.write_bytes(b"other scribble")
    files.corrupt(path, "not a certificate", "Restore it", now=NOW + 9)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_lock_is_held_against_other_processes_and_freed_by_death(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from raven.registry.files import Lock\n"
        "lock = Lock(pathlib.Path(sys.argv[1]), 'raven-gateway'); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateError, match=rf"in use by raven-gateway \(process {holder.pid}\)"):
            files.Lock(tmp_path, "raven-gateway")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=10)
    lock = files.Lock(tmp_path, "raven-gateway")
    with pytest.raises(StateError, match=f"process {os.getpid()}"):
        files.Lock(tmp_path, "raven-gateway")
    lock.release()
    lock.release()
    files.Lock(tmp_path, "raven-gateway").release()


@pytest.mark.netns
def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        files.write(disk / "file", b"old")
        ballast = fill(disk)
        with pytest.raises(StateError, match=r"disk/file: cannot write: No space left on device"):
            files.write(disk / "file", b"new" * 10_000)
        assert files.read(disk / "file") == b"old"
        assert {path.name for path in disk.iterdir()} == {"file", "ballast"}
        error = files.corrupt(disk / "file", "not it", "Mend it", now=NOW)
        assert "A copy could not be kept: No space left" in str(error)
        files.Lock(disk, "raven-gateway").release()
        ballast.unlink()
        files.write(disk / "file", b"new" * 10_000)
