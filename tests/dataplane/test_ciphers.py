"""Which ciphers suit which processor."""

from pathlib import Path

import pytest

from raven.dataplane.ciphers import superframe_ciphers
from raven.wg.configuration import SuperframeCipher


@pytest.mark.parametrize(
    ("cpuinfo", "aes"),
    [
        ("flags\t\t: fpu sse2 aes pclmulqdq avx\n", True),
        ("flags\t\t: fpu sse2 aes\n", False),
        ("flags\t\t: fpu sse2 aes pclmulqdq\nflags\t\t: fpu sse2\n", False),
        ("Features\t: fp asimd aes pmull sha1\n", True),
        ("Features\t: half thumb fastmult vfp\n", False),
        ("system type\t\t: MT7621\n", False),
    ],
)
def test_aes_only_where_every_core_has_it(tmp_path: Path, cpuinfo: str, aes: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    assert (SuperframeCipher.AES256GCM in superframe_ciphers(path)) is aes
    assert superframe_ciphers(path)[-1] is SuperframeCipher.CHACHA20POLY1305


def test_without_cpuinfo(tmp_path: Path) -> None:
    assert superframe_ciphers(tmp_path / "none") == (SuperframeCipher.CHACHA20POLY1305,)
