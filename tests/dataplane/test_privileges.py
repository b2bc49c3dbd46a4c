"""What a process can still do after `privileges.drop`, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raven.dataplane import privileges

STATUS = """
from raven.dataplane import privileges
privileges.drop()
privileges.drop()
print(open("/proc/self/status").read())
"""


def status() -> dict[str, str]:
    said = subprocess.check_output([sys.executable, "-c", STATUS], text=True, timeout=30)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())}


def test_two_capabilities_are_left_at_most() -> None:
    after = status()
    kept = 1 << 10 | 1 << 12
    for name in ("CapEff", "CapPrm"):
        assert int(after[name], 16) & ~kept == 0
    assert int(after["CapInh"], 16) == 0
    assert after["NoNewPrivs"] == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has anything to lose")
def test_root_keeps_what_a_device_needs() -> None:
    after = status()
    assert int(after["CapEff"], 16) == int(after["CapBnd"], 16) == 1 << 10 | 1 << 12
    assert after["Uid"].split() == ["0"] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others cannot give files away")
def test_what_only_root_s_powers_can_read(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.touch()
    assert privileges.can_read_without(file)
    os.chown(tmp_path, 12345, 12345)
    tmp_path.chmod(0o700)
    assert not privileges.can_read_without(file)
    tmp_path.chmod(0o711)
    assert privileges.can_read_without(file)
    os.chown(file, 12345, 12345)
    file.chmod(0o600)
    assert not privileges.can_read_without(file)
