"""Replacing a gateway's CA while both are trusted: what lies where, and the moment of the change.

    next/       ca.key  ca.crt  link.crt            made by `raven-gateway ca rotate`, ca.crt last
    switching/  the same, gateway.crt and old.crt   while the gateway makes it the current one
    previous/   ca.crt  gateway.crt  link.crt       while the CA before is trusted too

The private key of the CA before is gone with the change: what it has to sign, the gateway's own certificate
for agents that know no other CA and the link by which they believe the new one, is signed before. So the
overlap ends with that certificate, at the latest.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raven.errors import RefusedError, StateError
from raven.pki.ca import Authority
from raven.pki.certificate import load_leaf
from raven.pki.csr import key_pem, load_key, new_key
from raven.registry import files

Random = Callable[[int], bytes]


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keeps who stages a CA and the gateway that takes it apart, for some milliseconds."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise files.failed(directory, "open", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Previous:
    """The CA before, while it is trusted. Satisfies `raven.net.tls.Credentials`."""

    directory: Path

    @property
    def certificate(self) -> Path:
        return self.directory / "previous" / "gateway.crt"

    @property
    def key(self) -> Path:
        return self.directory / "gateway.key"

    @property
    def ca(self) -> Path:
        return self.directory / "trust.crt"

    @property
    def own_ca(self) -> Path:
        return self.directory / "previous" / "ca.crt"

    @property
    def link_pem(self) -> str:
        return files.read(self.directory / "previous" / "link.crt").decode("ascii")


def load_authority(directory: Path, cluster: str) -> Authority:
    """The CA in `directory`; StateError."""
    try:
        key = load_key(files.read(directory / "ca.key", secret=True))
        return Authority.load(cluster, files.read(directory / "ca.crt"), key)
    except ValueError as error:
        raise StateError(f"{directory}: not a CA: {error}") from error


def stage(directory: Path, *, now: float, random: Random) -> Authority:
    """Makes the CA that the gateway takes within seconds, or at its next start.

    RefusedError "rotating" during an overlap.
    """
    with alone(directory):
        return _stage(directory, now, random)


def _stage(directory: Path, now: float, random: Random) -> Authority:
    if (directory / "previous").exists() or (directory / "switching").exists():
        raise RefusedError(
            "rotating", "the CA before the current one is still trusted; `raven-gateway ca retire` ends that"
        )
    current = load_authority(directory, load_cluster(directory))
    staged = directory / "next"
    files.make_subdirectory(staged)
    following = Authority.create(current.cluster, new_key(random), now=now, random=random)
    with contextlib.suppress(FileNotFoundError):
        (staged / "ca.crt").unlink()  # of an earlier call: until it is written again, nothing is staged
    files.write(staged / "ca.key", key_pem(following.key))
    files.write(staged / "link.crt", current.vouch_for(following, now=now, random=random).encode())
    files.write(staged / "ca.crt", following.certificate_pem.encode())
    return following


def retire(directory: Path) -> None:
    """The gateway trusts the CA before no more, within seconds. RefusedError "not-rotating"."""
    if not (directory / "previous").exists():
        raise RefusedError("not-rotating", "no CA but the current one is trusted")
    files.write(directory / "previous" / "retired", b"")


def take_staged(directory: Path, issue_gateway: Callable[[Authority], str], *, now: float) -> None:
    """Called under the gateway's lock: ends an overlap, makes a staged CA the current one."""
    try:
        with alone(directory):
            _take_staged(directory, issue_gateway, now)
    except OSError as error:
        raise files.failed(directory, "change the CA in this directory", error) from error


def take_followed(directory: Path, *, ca_pem: str, link_pem: str) -> None:
    """In a gateway that follows another one: `ca_pem` becomes the CA, and the one there is the one before.

    No key of either is here; the gateway's certificate stays what it shows those who know the CA before.
    """
    try:
        with alone(directory):
            for leftover in (directory / "next", directory / "previous"):
                if leftover.exists():
                    _remove(leftover)
            staged = directory / "next"
            files.make_subdirectory(staged)
            files.write(staged / "gateway.crt", files.read(directory / "gateway.crt"))
            files.write(staged / "old.crt", files.read(directory / "ca.crt"))
            files.write(staged / "link.crt", link_pem.encode("ascii"))
            files.write(staged / "ca.crt", ca_pem.encode("ascii"))
            staged.rename(directory / "switching")  # from here on it happens, whatever interrupts it
            files.sync_directory(directory)
            _switch(directory, directory / "switching")
    except OSError as error:
        raise files.failed(directory, "change the CA in this directory", error) from error


def finish_followed(directory: Path, *, now: float) -> bool:
    """Ends there what `take_followed` began, and an overlap that is over; whether anything changed."""
    try:
        with alone(directory):
            switching, previous = directory / "switching", directory / "previous"
            changed = switching.exists()
            if changed:
                _switch(directory, switching)
            if _is_over(previous, now):
                _remove(previous)
                (directory / "trust.crt").unlink(missing_ok=True)
                changed = True
            return changed
    except OSError as error:
        raise files.failed(directory, "change the CA in this directory", error) from error


def is_changing(directory: Path, *, now: float) -> bool:
    """Whether `take_staged` has something to do. Cheap enough to ask every second."""
    previous = (directory / "previous").exists()
    if not previous:
        return (directory / "next" / "ca.crt").exists()
    return _is_over(directory / "previous", now)


def _take_staged(directory: Path, issue_gateway: Callable[[Authority], str], now: float) -> None:
    if _is_over(directory / "previous", now):
        _remove(directory / "previous")
        (directory / "trust.crt").unlink(missing_ok=True)
    staged, switching = directory / "next", directory / "switching"
    if (staged / "ca.crt").exists() and not switching.exists() and not (directory / "previous").exists():
        current = load_authority(directory, load_cluster(directory))
        files.write(staged / "gateway.crt", issue_gateway(current).encode())
        files.write(staged / "old.crt", current.certificate_pem.encode())
        staged.rename(switching)  # from here on it happens, whatever interrupts it
        files.sync_directory(directory)
    if switching.exists():
        _switch(directory, switching)


def load_previous(directory: Path) -> Previous | None:
    """The CA before, with `trust.crt` made from both."""
    if not (directory / "previous" / "ca.crt").exists():
        return None
    both = files.read(directory / "ca.crt") + files.read(directory / "previous" / "ca.crt")
    files.write(directory / "trust.crt", both)
    return Previous(directory)


def _is_over(previous: Path, now: float) -> bool:
    if (previous / "retired").exists():
        return True
    path = previous / "gateway.crt"
    try:
        return path.exists() and load_leaf(files.read(path)).not_after < now
    except ValueError as error:
        raise StateError(f"{path}: {error}; `raven-gateway ca retire` does without it") from error


def _switch(directory: Path, switching: Path) -> None:
    previous = directory / "previous"
    files.make_subdirectory(previous)
    for name, target in (
        ("gateway.crt", previous / "gateway.crt"),
        ("link.crt", previous / "link.crt"),
        ("old.crt", previous / "ca.crt"),
        ("ca.crt", directory / "ca.crt"),
        ("ca.key", directory / "ca.key"),
    ):
        with contextlib.suppress(FileNotFoundError):  # moved before an interruption
            (switching / name).replace(target)
    files.sync_directory(previous)
    files.sync_directory(directory)
    switching.rmdir()


def _remove(directory: Path) -> None:
    # "retired" last: an interruption leaves a removal to finish.
    for path in sorted(directory.iterdir(), key=lambda path: path.name == "retired"):
        path.unlink()
    directory.rmdir()


def load_cluster(directory: Path) -> str:
    """The name of the cluster whose gateway has this directory; StateError."""
    return files.read(directory / "cluster").decode("ascii", "replace").removesuffix("\n")
