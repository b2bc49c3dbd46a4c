"""The WireGuard private key on disk: 44 characters of base64 and a newline, as `wg genkey` writes it."""

from pathlib import Path

from raven.keys import PrivateKey
from raven.registry import files


def write_wg_key(path: Path, key: PrivateKey) -> None:
    files.write(path, f"{key.to_base64()}\n".encode())


def read_wg_key(path: Path, *, now: float) -> PrivateKey:
    """StateError when it is missing, not a key, or others may read it."""
    text = files.read(path, secret=True).decode("ascii", "replace").removesuffix("\n")
    try:
        return PrivateKey.from_base64(text)
    except ValueError as error:
        # The cause would repeat parts of what may be a key with a typing error.
        raise files.corrupt(
            path, "not a WireGuard private key", "Move it away to have a new one made", now=now
        ) from error
