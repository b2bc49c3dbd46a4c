"""What lies in a daemon's state directory, looked at without touching it.

The daemons' own ways to open it lock the directory, finish interrupted joins and keep copies of damaged
files; somebody who only asks must do none of that. Blocking, for milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509

from raven.diagnosis.finding import Finding
from raven.diagnosis.judge import count
from raven.pki.certificate import Leaf, load_ca_certificate, load_leaf, pin_of
from raven.pki.csr import UNUSABLE, key_hash, load_key
from raven.pki.token import pin_text
from raven.registry.agent_state import AgentFile
from raven.spans import age

Role = Literal["agent", "gateway"]

AGENT_FILES = ("agent.json", "node.key", "node.crt", "ca.crt", "wg.key")
GATEWAY_FILES = ("cluster", "ca.key", "ca.crt", "gateway.key", "gateway.crt", "wg.key", "registry.sqlite")
_FILE_MAX = 1 << 20  # bytes

JOIN = "raven-agent join --gateway HOST:PORT --node NAME --token -"
NEW_CERTIFICATE = {
    "agent": "`raven-gateway token create --node NAME` there, then `raven-agent join --force` here",
    "gateway": "restart raven-gateway: it makes itself a new certificate at the start",
}


def role_of(directory: Path) -> Role | Literal[""]:
    """Whose directory it is; "" for nobody's, or one that we may not look into."""
    with contextlib.suppress(OSError):
        if (directory / "agent.json").exists() or (directory / "node.key").exists():
            return "agent"
        if (directory / "ca.key").exists() or (directory / "cluster").exists():
            return "gateway"
    return ""


@dataclass
class OwnState:
    """What could be read of a state directory, and what was found on the way."""

    directory: Path
    role: Role
    findings: list[Finding] = field(default_factory=list)
    agent: AgentFile | None = None
    ca: x509.Certificate | None = None
    leaf: Leaf | None = None

    def _broken(self, name: str, said: str, step: str) -> None:
        about = str(self.directory / name)
        self.findings.append(Finding(hop="state", result="broken", about=about, said=said, next=step))


def read_state(directory: Path, role: Role) -> OwnState:
    """Reads the directory of a `role`; what is wrong with it becomes findings."""
    state = OwnState(directory, role)
    if not os.access(directory, os.R_OK | os.X_OK):
        if directory.exists():
            said = "only its owner may look into it, and this user is not"
            step = "run the same command with sudo"
            about = str(directory)
            state.findings.append(Finding(hop="state", result="unknown", about=about, said=said, next=step))
        else:
            state._broken("", "there is no such directory", JOIN if role == "agent" else "raven-gateway run")
        return state
    names = AGENT_FILES if role == "agent" else GATEWAY_FILES
    missing = [name for name in names if not (directory / name).exists()]
    if missing:
        step = JOIN if role == "agent" else "restore it from a backup, see docs/trust.md"
        state._broken(missing[0], f"{', '.join(missing)} missing", step)
    _read_files(state)
    _check_modes(state, names)
    if not any(finding.result == "broken" for finding in state.findings):
        about = str(directory)
        state.findings.append(Finding(hop="state", result="ok", about=about, said=_summary(state)))
    return state


def _summary(state: OwnState) -> str:
    if state.agent is not None:
        return f"node {state.agent.node} of cluster {state.agent.cluster}, all files there"
    pin = f", CA pin {pin_text(pin_of(state.ca))}" if state.ca is not None else ""
    return f"all files there{pin}"


def _read_files(state: OwnState) -> None:
    restore = "restore it from a backup"
    again = f"{restore}, or {NEW_CERTIFICATE['agent']}" if state.role == "agent" else restore
    if state.role == "agent" and (data := _read(state, "agent.json")) is not None:
        try:
            state.agent = msgspec.json.decode(data, type=AgentFile)
        except (msgspec.DecodeError, RecursionError) as error:
            state._broken("agent.json", f"damaged: {error}", again)
    if (data := _read(state, "ca.crt")) is not None:
        try:
            state.ca = load_ca_certificate(data)
        except ValueError as error:
            state._broken("ca.crt", str(error), again)
    own = "node" if state.role == "agent" else "gateway"
    if (data := _read(state, f"{own}.crt")) is not None:
        try:
            state.leaf = load_leaf(data)
        except ValueError as error:
            state._broken(f"{own}.crt", str(error), again)
    if state.leaf is not None and (data := _read(state, f"{own}.key")) is not None:
        try:
            if key_hash(load_key(data).public_key()) != state.leaf.key_hash:
                state._broken(f"{own}.key", f"not the key of {own}.crt", again)
        except ValueError as error:
            state._broken(f"{own}.key", f"not a private key: {error}", again)
    if state.leaf is not None and state.ca is not None:
        certificate = x509.load_pem_x509_certificate(state.leaf.pem.encode())
        try:
            certificate.verify_directly_issued_by(state.ca)
        except UNUSABLE:
            state._broken(f"{own}.crt", "not signed by the CA in ca.crt", again)


def _read(state: OwnState, name: str) -> bytes | None:
    path = state.directory / name
    try:
        with path.open("rb") as file:
            return file.read(_FILE_MAX)
    except FileNotFoundError:
        return None  # found missing already
    except PermissionError:
        said, step = "this user may not read it", "run the same command with sudo"
        state.findings.append(Finding(hop="state", result="unknown", about=str(path), said=said, next=step))
    except OSError as error:
        state._broken(name, error.strerror or str(error), "look at the disk: `dmesg | tail`, `df -h`")
    return None


def _check_modes(state: OwnState, names: tuple[str, ...]) -> None:
    for name in names:
        path = state.directory / name
        if not name.endswith(".key"):
            continue
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                said = f"a private key that others may read (mode {mode:o}); the daemon refuses it"
                state._broken(name, said, f"chmod 600 {path}")


def registry(path: Path, *, now: float) -> Finding:
    """Whether the gateway's database is sound, asked over a connection that can only read."""
    about = str(path)
    # Without a WAL nobody has it open, and a plain reader would leave one behind.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        uri = f"{path.absolute().as_uri()}?{mode}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=2.0)) as connection:
            told = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if told != "ok":
                raise sqlite3.DatabaseError(str(told))
            nodes, newest = connection.execute("SELECT count(*), max(last_seen) FROM nodes").fetchone()
    except sqlite3.Error as error:
        if not os.access(path, os.R_OK):
            said, step = "this user may not read it", "run the same command with sudo"
            return Finding(hop="registry", result="unknown", about=about, said=said, next=step)
        step = "restore it from a backup (docs/trust.md); without one every node has to join again"
        return Finding(hop="registry", result="broken", about=about, said=f"not sound: {error}", next=step)
    seen = f", the last one seen {age(max(0.0, now - newest))} ago" if newest else ""
    return Finding(
        hop="registry", result="ok", about=about, said=f"sound; {count(nodes, 'node')} joined{seen}"
    )
