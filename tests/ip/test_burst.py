"""What is worth joining, and that asking costs nothing."""

import subprocess
import sys

from raven.ip.burst import WORTH_JOINING, worth_joining


def test_two_packets_with_some_bytes_are() -> None:
    half = memoryview(bytes(WORTH_JOINING // 2))
    assert worth_joining([half, half])
    assert not worth_joining([half, half[:-1]])
    assert not worth_joining([memoryview(bytes(WORTH_JOINING))])
    assert not worth_joining([])


def test_a_device_starts_without_numpy() -> None:
    script = "import sys, raven.dataplane.engine, raven.wg.device; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0
