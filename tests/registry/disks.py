"""A disk small enough to fill: a tmpfs, for root."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE = 1 << 20  # bytes


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of `SIZE` bytes at `path`, gone afterwards; skips the test where none can be mounted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "raven-test", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=10)


def fill(path: Path) -> Path:
    """Leaves not a byte on the disk of directory `path`; removing the returned file makes room again."""
    ballast = path / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast
