from pathlib import Path

import pytest

from raven.errors import StateError
from raven.keys import PrivateKey
from raven.registry.wg_key import read_wg_key, write_wg_key

KEY = PrivateKey.clamped(bytes(range(32)))


def test_the_file_is_what_wg_genkey_writes(tmp_path: Path) -> None:
    path = tmp_path / "wg.key"
    write_wg_key(path, KEY)
    assert path.read_text() == f"{KEY.to_base64()}\n"
    assert read_wg_key(path, now=0) == KEY
    path.write_text(KEY.to_base64())
    assert read_wg_key(path, now=0) == KEY


@pytest.mark.parametrize(
    "text", ["", "\n", "x" * 44, KEY.to_base64()[:-5], KEY.to_base64() + "\n\n", "é" * 44]
)
def test_anything_else_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wg.key"
    write_wg_key(path, KEY)
    path.write_text(text)
    with pytest.raises(StateError, match=r"wg.key: not a WireGuard private key. A copy is kept") as caught:
        read_wg_key(path, now=0)
    assert KEY.to_base64()[:8] not in str(caught.value)
