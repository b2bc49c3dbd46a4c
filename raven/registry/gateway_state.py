"""A gateway's state directory: made on first start, checked and completed on every start, held by one
process.

    lock  cluster  ca.key  ca.crt  gateway.key  gateway.crt  wg.key  registry.sqlite

Files are written in this order, so that an interrupted first start is completed by the next one. What is
there and cannot be understood is refused, never replaced: a new CA would strand every node that pinned the
old.
"""

import base64
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raven.errors import ConfigError, StateError
from raven.keys import PrivateKey, PublicKey
from raven.names import is_cluster, is_name
from raven.pki.ca import Authority, canonical_host
from raven.pki.certificate import (
    Leaf,
    check_link_untrusted,
    load_ca_certificate,
    load_leaf,
    pin_of,
    read_ca_untrusted,
)
from raven.pki.csr import Key, key_hash, key_pem, load_key, new_key
from raven.pki.identity import gateway_identity
from raven.registry import ca_rotation, files, shared_ca
from raven.registry.follower_state import FollowerFile, read_follower_file
from raven.registry.wg_key import read_wg_key, write_wg_key
from raven.wg.primitives import DhPrivateKey

Random = Callable[[int], bytes]


@dataclass(kw_only=True)
class GatewayState:
    """A gateway's directory, held until `close`. Satisfies `raven.net.tls.Credentials`."""

    directory: Path
    cluster: str
    name: str
    hosts: tuple[str, ...]  # what --advertise says, without ports
    ca_pem: str  # of the current CA
    own_authority: Authority | None  # None in a gateway that follows another one
    leaf: Leaf = field(repr=False)  # the gateway's own certificate
    wg_private_key: PrivateKey
    wg_public_key: PublicKey
    lock: files.Lock = field(repr=False)
    first_start: bool  # the CA was made just now
    previous: ca_rotation.Previous | None = None  # the CA before, while it is trusted too
    follower: FollowerFile | None = None  # whom it follows, if anybody
    _ca_changed: bool = False  # by `follow_ca`, since `follow_rotation` was asked

    @property
    def authority(self) -> Authority:
        """The CA; only where nobody is followed."""
        assert self.own_authority is not None, "a gateway that follows another one has no CA"
        return self.own_authority

    @property
    def certificate(self) -> Path:
        return self.directory / "gateway.crt"

    @property
    def key(self) -> Path:
        return self.directory / "gateway.key"

    @property
    def ca(self) -> Path:
        """All that is trusted."""
        return self.directory / ("trust.crt" if self.previous else "ca.crt")

    @property
    def registry(self) -> Path:
        return registry_path(self.directory)

    def renew_if_due(self, *, now: float, random: Random = os.urandom) -> bool:
        """True when gateway.crt was replaced: then load it into the listener's context again."""
        if self.own_authority is None or now < self.leaf.renew_at:
            return False
        key = _load_key(self.key, now)
        self.leaf = _issue(self.directory, self.authority, self.name, self.hosts, key, now, random)
        return True

    def follow_rotation(self, *, now: float, random: Random = os.urandom) -> bool:
        """True when the CA has changed, by a command, in the cluster or where another is followed: then load
        everything again.
        """
        if self.own_authority is None:
            over = ca_rotation.is_changing(self.directory, now=now)
            if over and ca_rotation.finish_followed(self.directory, now=now):
                self.previous = ca_rotation.load_previous(self.directory)
                self._ca_changed = True
            changed, self._ca_changed = self._ca_changed, False
            return changed
        if not (ca_rotation.is_changing(self.directory, now=now) or shared_ca.is_adopted(self.directory)):
            return False
        _take_authority(self.directory, self.name, self.hosts, now, random)
        self.own_authority = _authority(self.directory, self.cluster, now, random)
        self.ca_pem = self.own_authority.certificate_pem
        self.leaf = _leaf(self.directory, self.authority, self.name, self.hosts, now, random)
        self.previous = ca_rotation.load_previous(self.directory)
        return True

    def load_key(self, *, now: float) -> Key:
        return _load_key(self.key, now)

    def install(self, certificate_pem: str) -> None:
        """Called by a gateway that follows another one with its next certificate, which was checked."""
        files.write(self.certificate, certificate_pem.encode())
        self.leaf = load_leaf(certificate_pem.encode())

    def follow_ca(self, *, ca_pem: str, link_pem: str, overlap: bool) -> bool:
        """Called by a gateway that follows another one with that one's word on the CA; whether that is news.

        PeerError "bad-ca", "bad-link" when the CA there is does not vouch for it.
        """
        known, following = load_ca_certificate(self.ca_pem.encode()), read_ca_untrusted(ca_pem)
        check_link_untrusted(ca_pem, following, following)
        if pin_of(following) != pin_of(known):
            check_link_untrusted(link_pem, known, following)
            ca_rotation.take_followed(self.directory, ca_pem=ca_pem, link_pem=link_pem)
            self.ca_pem = ca_pem
        elif self.previous is not None and not overlap:
            ca_rotation.retire(self.directory)
            ca_rotation.finish_followed(self.directory, now=0)
        else:
            return False
        self.previous = ca_rotation.load_previous(self.directory)
        self._ca_changed = True
        return True

    @property
    def pin(self) -> bytes:
        """Of the current CA."""
        return pin_of(load_ca_certificate(self.ca_pem.encode()))

    def close(self) -> None:
        """Lets another gateway have the directory."""
        self.lock.release()


def open_gateway(
    directory: Path,
    *,
    hosts: Sequence[str],
    name: str | None = None,
    cluster: str | None = None,
    now: float,
    random: Random = os.urandom,
    share: Callable[[Path], None] | None = None,
) -> GatewayState:
    """The gateway's state, made on first start and completed when that was interrupted; locked until
    closed.

    `hosts` are the names and addresses of --advertise, without ports: the gateway's certificate is
    re-issued when they change or it nears its end. `name` None means the one it has joined as, or "gateway";
    `cluster` None the one there is, or a random one on first start. `share` is called under the lock where
    the CA is shared: it leaves in `adopted/` what the cluster has (`shared_ca`). StateError when another
    gateway holds the directory or a file in it cannot be used; ConfigError when an argument cannot be.
    """
    if name is not None and not is_name(name):
        raise ConfigError(f"gateway name {name!r}: expected lower-case letters, digits, '-' and '.'")
    if cluster is not None and not is_cluster(cluster):
        raise ConfigError(f"cluster name {cluster!r}: expected up to 63 lower-case letters, digits and '-'")
    files.make_directory(directory)
    if (directory / "agent.json").exists():
        raise StateError(f"{directory}: an agent's state is here; give the gateway a directory of its own")
    lock = files.Lock(directory, "raven-gateway")
    try:
        if (follower := read_follower_file(directory, now=now)) is not None:
            return _open_follower(directory, follower, lock, name=name, cluster=cluster, now=now)
        name = name or "gateway"
        first_start = not (directory / "ca.key").exists()
        _take_authority(directory, name, tuple(hosts), now, random)
        if share is not None:
            share(directory)
            _take_authority(directory, name, tuple(hosts), now, random)
        authority = _authority(directory, cluster, now, random)
        leaf = _leaf(directory, authority, name, tuple(hosts), now, random)
        wg_private_key = _wg_key(directory, now, random)
        return GatewayState(
            directory=directory,
            cluster=authority.cluster,
            name=name,
            hosts=tuple(hosts),
            ca_pem=authority.certificate_pem,
            own_authority=authority,
            leaf=leaf,
            wg_private_key=wg_private_key,
            wg_public_key=DhPrivateKey(wg_private_key).public,
            lock=lock,
            first_start=first_start,
            previous=ca_rotation.load_previous(directory),
        )
    except BaseException:
        lock.release()
        raise


def _open_follower(
    directory: Path,
    follower: FollowerFile,
    lock: files.Lock,
    *,
    name: str | None,
    cluster: str | None,
    now: float,
) -> GatewayState:
    """The state that `raven-gateway join` left."""
    for option, given, joined in (("name", name, follower.name), ("cluster", cluster, follower.cluster)):
        if given and given != joined:
            raise ConfigError(f"{option} {given}: {directory} has joined as {joined}")
    ca_rotation.finish_followed(directory, now=now)
    path = directory / "ca.crt"
    try:
        ca_pem = files.read(path).decode("ascii", "replace")
        load_ca_certificate(ca_pem.encode())
        path = directory / "gateway.crt"
        leaf = load_leaf(files.read(path))
    except ValueError as error:
        raise files.corrupt(
            path, str(error), "Join again with `raven-gateway join --force`", now=now
        ) from error
    wg_private_key = read_wg_key(directory / "wg.key", now=now)
    return GatewayState(
        directory=directory,
        cluster=follower.cluster,
        name=follower.name,
        hosts=leaf.hosts,
        ca_pem=ca_pem,
        own_authority=None,
        leaf=leaf,
        wg_private_key=wg_private_key,
        wg_public_key=DhPrivateKey(wg_private_key).public,
        lock=lock,
        first_start=False,
        previous=ca_rotation.load_previous(directory),
        follower=follower,
    )


def registry_path(directory: Path) -> Path:
    return directory / "registry.sqlite"


def read_pin(directory: Path, *, now: float) -> bytes:
    """The pin of the CA in a gateway's directory, which may be in use; StateError when there is none."""
    path = directory / "ca.crt"
    if not path.exists():
        raise StateError(f"{directory}: no gateway's state here; `raven-gateway run` makes it")
    try:
        return pin_of(load_ca_certificate(files.read(path)))
    except ValueError as error:
        raise files.corrupt(path, str(error), _CA_REMEDY, now=now) from error


_CA_REMEDY = "Restore it from a backup: every node has pinned this CA"
_LEAF_REMEDY = "Move it away to have a new one made"


def _authority(directory: Path, cluster: str | None, now: float, random: Random) -> Authority:
    name_path, key_path, path = (directory / name for name in ("cluster", "ca.key", "ca.crt"))
    if not key_path.exists():
        if path.exists() or registry_path(directory).exists():
            raise StateError(f"{key_path}: missing, while the rest of the cluster is there. {_CA_REMEDY}")
        if not name_path.exists():
            files.write(name_path, f"{cluster or new_cluster(random)}\n".encode())
        files.write(key_path, key_pem(new_key(random)))
    name = files.read(name_path).decode("ascii", "replace").removesuffix("\n")
    if not is_cluster(name):
        raise files.corrupt(name_path, "not a cluster's name", _CA_REMEDY, now=now)
    if cluster is not None and cluster != name:
        raise ConfigError(f"cluster {cluster}: {directory} belongs to cluster {name}")
    key = _load_key(key_path, now, remedy=_CA_REMEDY)
    if not path.exists():
        # Same key, same name: whatever the lost certificate vouched for, this one does.
        files.write(path, Authority.create(name, key, now=now, random=random).certificate_pem.encode())
    try:
        return Authority.load(name, files.read(path), key)
    except ValueError as error:
        raise files.corrupt(path, str(error), _CA_REMEDY, now=now) from error


def _leaf(
    directory: Path, authority: Authority, name: str, hosts: tuple[str, ...], now: float, random: Random
) -> Leaf:
    """The gateway's own certificate, the one on disk if it still says what it should."""
    key_path, path = directory / "gateway.key", directory / "gateway.crt"
    if not key_path.exists():
        files.write(key_path, key_pem(new_key(random)))
    key = _load_key(key_path, now)
    if path.exists():
        try:
            leaf = load_leaf(files.read(path))
        except ValueError as error:
            raise files.corrupt(path, str(error), _LEAF_REMEDY, now=now) from error
        same = leaf.identity == gateway_identity(authority.cluster, name)
        same &= leaf.key_hash == key_hash(key.public_key()) and set(leaf.hosts) == set(
            map(canonical_host, hosts)
        )
        if same and authority.issued(leaf) and leaf.not_before <= now < leaf.renew_at:
            return leaf
    return _issue(directory, authority, name, hosts, key, now, random)


def _issue(
    directory: Path,
    authority: Authority,
    name: str,
    hosts: tuple[str, ...],
    key: Key,
    now: float,
    random: Random,
) -> Leaf:
    try:
        leaf = authority.issue_gateway(name, key.public_key(), hosts=hosts, now=now, random=random)
    except ValueError as error:
        raise ConfigError(f"advertised host {', '.join(hosts)}: {error}") from error
    files.write(directory / "gateway.crt", leaf.pem.encode())
    return leaf


def _take_authority(directory: Path, name: str, hosts: tuple[str, ...], now: float, random: Random) -> None:
    """Makes whatever was adopted or staged the directory's CA, and ends an overlap that is over."""

    def issue(before: Authority) -> str:
        return _previous_leaf(directory, before, name, hosts, now, random)

    shared_ca.take_adopted(directory, issue)
    ca_rotation.take_staged(directory, issue, now=now)


def _previous_leaf(
    directory: Path, current: Authority, name: str, hosts: tuple[str, ...], now: float, random: Random
) -> str:
    """The gateway's certificate from a CA that is about to go, for the whole overlap."""
    if not (directory / "gateway.key").exists():
        files.write(directory / "gateway.key", key_pem(new_key(random)))
    key = _load_key(directory / "gateway.key", now)
    return current.issue_gateway(name, key.public_key(), hosts=hosts, now=now, random=random).pem


def _wg_key(directory: Path, now: float, random: Random) -> PrivateKey:
    path = directory / "wg.key"
    if not path.exists():
        write_wg_key(path, PrivateKey.clamped(random(32)))
    return read_wg_key(path, now=now)


def _load_key(path: Path, now: float, remedy: str = _LEAF_REMEDY) -> Key:
    try:
        return load_key(files.read(path, secret=True))
    except ValueError as error:
        raise files.corrupt(path, "not a P-256 private key", remedy, now=now) from error


def new_cluster(random: Random) -> str:
    """A name nobody has to think of: 40 random bits in 8 characters, told apart by eye."""
    return base64.b32encode(random(5)).decode("ascii").lower()
