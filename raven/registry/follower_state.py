"""The state directory of a gateway that follows another one: an identity from that one's CA, and no CA.

    lock  cluster  ca.crt  gateway.key  gateway.crt  wg.key  follower.json  registry.sqlite (a copy)

follower.json is written last, and makes the rest count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from raven.errors import StateError
from raven.keys import PrivateKey
from raven.registry import files
from raven.registry.wg_key import write_wg_key

FOLLOWER_FILE = "follower.json"
_REMEDY = "Restore it from a backup, or join again with `raven-gateway join --force`"


class FollowerFile(msgspec.Struct, frozen=True, kw_only=True):
    """follower.json."""

    name: str
    cluster: str
    address: str  # HOST:PORT where agents dial this gateway
    followed: str  # HOST:PORT of the gateway with the CA


def read_follower_file(directory: Path, *, now: float) -> FollowerFile | None:
    """None where the gateway follows nobody; StateError when the file is damaged."""
    path = directory / FOLLOWER_FILE
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(files.read(path), type=FollowerFile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise files.corrupt(path, str(error), _REMEDY, now=now) from error


def check_leads(directory: Path, *, now: float) -> None:
    """StateError for the state of a follower: what a command would change there, the next copy undoes."""
    if (follower := read_follower_file(directory, now=now)) is not None:
        raise StateError(
            f"{directory}: this gateway follows {follower.followed}; run the command on that gateway"
        )


class FollowerDraft:
    """The identity that a gateway is about to get; the directory is held until `close`."""

    def __init__(
        self, directory: Path, *, force: bool, make_keys: Callable[[], tuple[bytes, PrivateKey]], now: float
    ) -> None:
        """The keys are on disk before the token is spent. StateError when something else is there."""
        files.make_directory(directory)
        for name, what in (("ca.key", "a gateway with a CA of its own"), ("agent.json", "an agent")):
            if (directory / name).exists():
                raise StateError(f"{directory}: the state of {what} is here; use another directory")
        self._directory = directory
        self._lock = files.Lock(directory, "raven-gateway")
        try:
            have = read_follower_file(directory, now=now)
            if have is not None and not force:
                raise StateError(
                    f"{directory}: already joined as gateway {have.name} of cluster {have.cluster};"
                    " --force replaces that identity"
                )
            if not ((directory / "gateway.key").exists() and (directory / "wg.key").exists()):
                key, wg_key = make_keys()
                files.write(directory / "gateway.key", key)
                write_wg_key(directory / "wg.key", wg_key)
            self.key_pem = files.read(directory / "gateway.key", secret=True)
        except BaseException:
            self.close()
            raise

    def finish(self, *, certificate_pem: str, ca_pem: str, follower: FollowerFile) -> None:
        """Makes it the directory's identity; what was copied from another cluster's registry goes."""
        directory = self._directory
        with contextlib.suppress(FileNotFoundError):
            (directory / FOLLOWER_FILE).unlink()
        for leftover in directory.glob("registry.sqlite*"):
            leftover.unlink()
        files.write(directory / "cluster", f"{follower.cluster}\n".encode())
        files.write(directory / "ca.crt", ca_pem.encode())
        files.write(directory / "gateway.crt", certificate_pem.encode())
        content = msgspec.json.format(msgspec.json.encode(follower)) + b"\n"
        files.write(directory / FOLLOWER_FILE, content)

    def close(self) -> None:
        self._lock.release()
