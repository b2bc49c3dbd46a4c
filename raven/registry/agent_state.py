"""An agent's state directory: what a join leaves, and what every later start loads.

lock  node.key  wg.key  node.crt  ca.crt  agent.json      .joining/ with the same names while a join is
under way; .renewing/ with the next node.key and node.crt during a renewal (`renewal_files`)

A join prepares everything in `.joining`; the moment agent.json stands there the join counts, and whoever
opens the directory next moves the files up. So an identity is never half old and half new. Imported by the
running agent: no `cryptography` here, keys come as arguments and OpenSSL judges them.
"""

import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from raven.errors import StateError
from raven.keys import PrivateKey, PublicKey
from raven.registry import files
from raven.registry.renewal_files import finish_renewal
from raven.registry.wg_key import read_wg_key, write_wg_key

_FILES = (
    "node.key",
    "wg.key",
    "node.crt",
    "ca.crt",
    "agent.json",
)  # agent.json last: it makes the rest count
_REMEDY = "Restore it from a backup, or join again with `raven-agent join --force`"


class AgentFile(msgspec.Struct, frozen=True, kw_only=True):
    """agent.json."""

    node: str
    cluster: str
    gateways: list[str]  # HOST:PORT
    wg_public_key: str  # base64; computing it from wg.key would take cryptography
    time_floor: float = 0.0  # Unix seconds: when node.crt begins, so it is later than that


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """A joined agent's directory, held until `close`. Satisfies `raven.net.tls.Credentials`."""

    directory: Path
    node: str
    cluster: str
    gateways: tuple[str, ...]  # HOST:PORT
    wg_private_key: PrivateKey
    wg_public_key: PublicKey
    time_floor: float  # Unix seconds; whoever says that it is earlier is wrong
    lock: files.Lock = field(repr=False)

    @property
    def certificate(self) -> Path:
        return self.directory / "node.crt"

    @property
    def key(self) -> Path:
        return self.directory / "node.key"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    def close(self) -> None:
        """Lets another agent have the directory."""
        self.lock.release()


def open_agent(directory: Path, *, now: float) -> AgentState:
    """The identity that a join left; StateError when it never did, a file is unusable, or an agent is using
    it.
    """
    if not directory.is_dir():
        raise StateError(f"{directory}: no identity here; `raven-agent join` makes it")
    lock = files.Lock(directory, "raven-agent")
    try:
        finish_renewal(directory)
        _finish_pending(directory)
        return _load(directory, lock, now)
    except BaseException:
        lock.release()
        raise


def read_agent_file(directory: Path, *, now: float) -> AgentFile:
    """agent.json; StateError when it is missing or not one."""
    path = directory / "agent.json"
    if not path.exists():
        raise StateError(f"{directory}: no identity here; `raven-agent join` makes it")
    try:
        return msgspec.json.decode(files.read(path), type=AgentFile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise files.corrupt(path, str(error), _REMEDY, now=now) from error


def write_agent_file(path: Path, content: AgentFile) -> None:
    files.write(path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")


class JoinDraft:
    """The identity a join is about to get; the directory is held until `finish` or `close`.

    The keys are on disk before the token is spent, so that a full disk costs no token. They stay there when
    the join fails: the same token and key once more get the same answer, in case only the answer was lost.
    """

    def __init__(
        self, directory: Path, *, force: bool, make_keys: Callable[[], tuple[bytes, PrivateKey]], now: float
    ) -> None:
        """StateError when there is an identity already and `force` is off, or nothing can be written.

        `make_keys` gives a TLS key in PEM and a WireGuard key, for when no earlier attempt left them.
        """
        files.make_directory(directory)
        if (directory / "ca.key").exists():
            raise StateError(f"{directory}: a gateway's state is here; give the agent a directory of its own")
        self.directory = directory
        self._pending = directory / ".joining"
        self._now = now
        self._lock = files.Lock(directory, "raven-agent")
        try:
            finish_renewal(directory)
            _finish_pending(directory)
            if (directory / "agent.json").exists() and not force:
                have = read_agent_file(directory, now=now)
                raise StateError(
                    f"{directory}: already joined as node {have.node} of cluster {have.cluster};"
                    " --force replaces that identity"
                )
            self.key_pem, self.wg_private_key = self._keys(make_keys)
        except BaseException:
            self.close()
            raise

    def finish(self, *, certificate_pem: str, ca_pem: str, agent: AgentFile) -> AgentState:
        """Makes it the directory's identity, durably; the state holds the directory from now on."""
        files.write(self._pending / "node.crt", certificate_pem.encode())
        files.write(self._pending / "ca.crt", ca_pem.encode())
        write_agent_file(self._pending / "agent.json", agent)
        _finish_pending(self.directory)
        return _load(self.directory, self._lock, self._now)

    def close(self) -> None:
        self._lock.release()

    def discard(self) -> None:
        """Called when what these keys asked for was refused for good: the next join makes others."""
        for name in ("node.key", "wg.key"):
            (self._pending / name).unlink(missing_ok=True)

    def _keys(self, make_keys: Callable[[], tuple[bytes, PrivateKey]]) -> tuple[bytes, PrivateKey]:
        tls, wg = self._pending / "node.key", self._pending / "wg.key"
        files.make_directory(self._pending)
        if tls.exists() and wg.exists():
            with contextlib.suppress(StateError):
                return files.read(tls, secret=True), read_wg_key(wg, now=self._now)
        key_pem, wg_private_key = make_keys()
        files.write(tls, key_pem)
        write_wg_key(wg, wg_private_key)
        return key_pem, wg_private_key


def _finish_pending(directory: Path) -> None:
    """Moves up what a join that counts has left, from wherever it was interrupted."""
    pending = directory / ".joining"
    if not (pending / "agent.json").exists():
        return
    try:
        for name in _FILES:
            with contextlib.suppress(FileNotFoundError):  # moved before the interruption
                (pending / name).replace(directory / name)
            files.sync_directory(directory)
        pending.rmdir()
    except OSError as error:
        raise files.failed(directory, "finish the join in this directory", error) from error


def _load(directory: Path, lock: files.Lock, now: float) -> AgentState:
    content = read_agent_file(directory, now=now)
    try:
        wg_public_key = PublicKey.from_base64(content.wg_public_key)
    except ValueError as error:
        raise files.corrupt(directory / "agent.json", f"wg_public_key: {error}", _REMEDY, now=now) from error
    state = AgentState(
        directory=directory,
        node=content.node,
        cluster=content.cluster,
        gateways=tuple(content.gateways),
        wg_private_key=read_wg_key(directory / "wg.key", now=now),
        wg_public_key=wg_public_key,
        time_floor=content.time_floor,
        lock=lock,
    )
    _check_credentials(state, now)
    return state


def _check_credentials(state: AgentState, now: float) -> None:
    """Finds out at the start, by name, which file OpenSSL would later refuse."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path in (state.certificate, state.ca):
        try:
            context.load_verify_locations(cadata=files.read(path).decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise files.corrupt(path, "not a certificate", _REMEDY, now=now) from error
    files.read(state.key, secret=True)
    try:
        context.load_cert_chain(state.certificate, state.key, password="")
    except ssl.SSLError as error:
        problem = "not a private key"
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = "not the key of node.crt"
        raise files.corrupt(state.key, problem, _REMEDY, now=now) from error
