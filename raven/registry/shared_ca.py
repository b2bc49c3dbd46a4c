"""A CA that several gateways share, and how it becomes the one in a gateway's state directory.

    adopted/   cluster  ca.crt  ca.key, and during an overlap  previous.crt  previous.key  link.crt

What the cluster has is put there whole; under the gateway's lock it is moved up, whatever interrupts that.
Other than with a CA of its own (`ca_rotation`), the key of the CA before lives as long as the overlap, in the
cluster: a gateway that starts in the middle of it needs a certificate by both.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raven.errors import RefusedError, StateError
from raven.pki.ca import Authority
from raven.pki.csr import key_pem, load_key, new_key
from raven.pki.renewal import LEAF_LIFE
from raven.registry import files
from raven.registry.ca_rotation import alone, load_authority, load_cluster

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousCa:
    """The CA before, while it is trusted too."""

    certificate_pem: str
    key_pem: str = field(repr=False)
    link_pem: str  # by which those who know it believe the current one
    until: float  # wall seconds; from then on it is not trusted


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCa:
    """The cluster's CA."""

    cluster: str
    certificate_pem: str
    key_pem: str = field(repr=False)
    previous: PreviousCa | None = None

    def previous_at(self, now: float) -> PreviousCa | None:
        return self.previous if self.previous is not None and now < self.previous.until else None


def shared_from(authority: Authority, previous: PreviousCa | None = None) -> SharedCa:
    return SharedCa(
        cluster=authority.cluster,
        certificate_pem=authority.certificate_pem,
        key_pem=key_pem(authority.key).decode("ascii"),
        previous=previous,
    )


def load_own(directory: Path) -> SharedCa | None:
    """The CA that a directory has, for a cluster that has none yet; None where there is none.

    StateError during an overlap: the key of the CA before is gone, so other gateways could not show it.
    """
    if not (directory / "ca.key").exists() or not (directory / "ca.crt").exists():
        return None
    if (directory / "previous" / "ca.crt").exists():
        raise StateError(
            f"{directory}: two CAs are trusted here, and only the current one can be shared; end that with"
            " `raven-gateway ca retire`, or run with --kubernetes-registry local until it is over"
        )
    return shared_from(load_authority(directory, load_cluster(directory)))


def rotated(ca: SharedCa, *, now: float, random: Random) -> SharedCa:
    """With a new CA in the place of the current one. RefusedError "rotating" during an overlap."""
    if ca.previous_at(now) is not None:
        raise RefusedError(
            "rotating", "the CA before the current one is still trusted; `raven-gateway ca retire` ends that"
        )
    current = _authority(ca.cluster, ca.certificate_pem, ca.key_pem)
    following = Authority.create(ca.cluster, new_key(random), now=now, random=random)
    previous = PreviousCa(
        certificate_pem=ca.certificate_pem,
        key_pem=ca.key_pem,
        link_pem=current.vouch_for(following, now=now, random=random),
        until=now + LEAF_LIFE,
    )
    return shared_from(following, previous)


def retired(ca: SharedCa) -> SharedCa:
    """Without the CA before. RefusedError "not-rotating"."""
    if ca.previous is None:
        raise RefusedError("not-rotating", "no CA but the current one is trusted")
    return SharedCa(cluster=ca.cluster, certificate_pem=ca.certificate_pem, key_pem=ca.key_pem)


def pin(ca: SharedCa) -> bytes:
    return _authority(ca.cluster, ca.certificate_pem, ca.key_pem).pin


def is_held(directory: Path, ca: SharedCa, *, now: float) -> bool:
    """Whether the directory has this CA already, and the one before as far as that is trusted."""
    previous = ca.previous_at(now)
    held = _text(directory / "ca.crt"), _text(directory / "previous" / "ca.crt")
    if (directory / "previous" / "retired").exists():
        held = held[0], ""
    return held == (ca.certificate_pem, previous.certificate_pem if previous is not None else "")


def adopt(directory: Path, ca: SharedCa, *, now: float) -> None:
    """Puts the CA where `take_adopted` finds it; one that was put there and not yet taken is forgotten.

    StateError when a key in it is none, or the directory cannot be written.
    """
    _authority(ca.cluster, ca.certificate_pem, ca.key_pem)
    contents = {"cluster": f"{ca.cluster}\n", "ca.crt": ca.certificate_pem, "ca.key": ca.key_pem}
    if (previous := ca.previous_at(now)) is not None:
        _authority(ca.cluster, previous.certificate_pem, previous.key_pem)
        contents |= {
            "previous.crt": previous.certificate_pem,
            "previous.key": previous.key_pem,
            "link.crt": previous.link_pem,
        }
    else:
        contents["alone"] = ""
    adopting, adopted = directory / "adopting", directory / "adopted"
    try:
        with alone(directory):
            if (adopted / "taking").exists():
                raise StateError(f"{adopted}: the CA before this one is being taken; it is tried again")
            for leftover in (adopting, adopted):
                if leftover.exists():
                    shutil.rmtree(leftover)
            files.make_directory(adopting)
            for name, text in contents.items():
                files.write(adopting / name, text.encode("ascii"))
            adopting.rename(adopted)
            files.sync_directory(directory)
    except OSError as error:
        raise files.failed(adopted, "write", error) from error


def is_adopted(directory: Path) -> bool:
    """Whether `take_adopted` has something to do. Cheap enough to ask every second."""
    return (directory / "adopted").exists()


def take_adopted(directory: Path, issue_gateway: Callable[[Authority], str]) -> None:
    """Called under the gateway's lock: what was adopted becomes the directory's CA.

    `issue_gateway` gives the gateway's certificate by the CA before. A CA before that is not trusted any
    more is left to `ca_rotation.take_staged`, which is to be called next.
    """
    adopted = directory / "adopted"
    try:
        with alone(directory):
            if adopted.exists():
                _take(directory, adopted, issue_gateway)
    except OSError as error:
        raise files.failed(directory, "change the CA in this directory", error) from error


def _take(directory: Path, adopted: Path, issue_gateway: Callable[[Authority], str]) -> None:
    previous = directory / "previous"
    if (adopted / "previous.key").exists():
        texts = [_text(adopted / name) for name in ("cluster", "previous.crt", "previous.key")]
        before = _authority(texts[0].strip(), texts[1], texts[2])
        files.write(adopted / "previous-gateway.crt", issue_gateway(before).encode())
    files.write(adopted / "taking", b"")  # from here on it happens, whatever interrupts it
    (adopted / "previous.key").unlink(missing_ok=True)
    if (adopted / "alone").exists():
        if previous.exists():
            files.write(previous / "retired", b"")
    else:
        files.make_directory(previous)
        (previous / "retired").unlink(missing_ok=True)
    for name, target in (
        ("previous-gateway.crt", previous / "gateway.crt"),
        ("link.crt", previous / "link.crt"),
        ("previous.crt", previous / "ca.crt"),
        ("cluster", directory / "cluster"),
        ("ca.crt", directory / "ca.crt"),
        ("ca.key", directory / "ca.key"),
    ):
        with contextlib.suppress(FileNotFoundError):  # moved before an interruption, or not part of it
            (adopted / name).replace(target)
    files.sync_directory(directory)
    shutil.rmtree(directory / "adopting", ignore_errors=True)
    adopted.rename(directory / "adopting")  # half a removal may not look like half a change
    shutil.rmtree(directory / "adopting")


def _authority(cluster: str, certificate_pem: str, key: str) -> Authority:
    try:
        return Authority.load(cluster, certificate_pem.encode("ascii"), load_key(key.encode("ascii")))
    except ValueError as error:
        raise StateError(f"the CA of cluster {cluster} cannot be used: {error}") from error


def _text(path: Path) -> str:
    """The content of a file; "" where there is none."""
    return files.read(path).decode("ascii", "replace") if path.exists() else ""
