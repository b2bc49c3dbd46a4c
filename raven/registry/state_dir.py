"""The state directories of a gateway and of an agent: what is in them, made, loaded, and held by one
process.

    gateway   lock  cluster  ca.key  ca.crt  gateway.key  gateway.crt  wg.key  registry.sqlite
    agent     lock  agent.json  node.key  node.crt  ca.crt  wg.key

The agent's part is imported by the running agent and therefore never touches `cryptography`; the gateway's
part imports it where it is used. Files are written in the order above, so an interrupted first start is
completed by the next one; what is there and cannot be understood is refused, never replaced.
"""

import contextlib
import fcntl
import os
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from raven.errors import ConfigError, StateError
from raven.keys import PrivateKey, PublicKey
from raven.names import is_cluster, is_name
from raven.registry import files

if TYPE_CHECKING:
    from raven.pki.ca import Authority

Random = Callable[[int], bytes]


@dataclass(kw_only=True)
class GatewayState:
    """A gateway's directory, held until `close`. Satisfies `raven.net.tls.Credentials`."""

    directory: Path
    cluster: str
    name: str
    hosts: tuple[str, ...]
    authority: "Authority" = field(repr=False)
    wg_private_key: PrivateKey
    wg_public_key: PublicKey

    @property
    def certificate(self) -> Path:
        return self.directory / "gateway.crt"

    @property
    def key(self) -> Path:
        return self.directory / "gateway.key"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def registry(self) -> Path:
        return self.directory / "registry.sqlite"

    def renew_if_due(self, *, now: float, random: Random = os.urandom) -> bool:
        """True when gateway.crt was replaced: then load it into the listener's context again."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets another gateway have the directory."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """A joined agent's directory. Satisfies `raven.net.tls.Credentials`."""

    directory: Path
    node: str
    cluster: str
    gateways: tuple[str, ...]  # HOST:PORT
    wg_private_key: PrivateKey
    wg_public_key: PublicKey

    @property
    def certificate(self) -> Path:
        return self.directory / "node.crt"

    @property
    def key(self) -> Path:
        return self.directory / "node.key"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"


def open_gateway(
    directory: Path,
    *,
    hosts: Sequence[str],
    name: str = "gateway",
    cluster: str | None = None,
    now: float,
    random: Random = os.urandom,
) -> GatewayState:
    """The gateway's state, made on first start and completed when that was interrupted; locked until
    closed.

    `hosts` are the names and addresses of --advertise, without ports: the gateway's certificate is
    re-issued when they change or it nears its end. `cluster` only matters on first start. StateError when
    another gateway holds the directory or a file in it cannot be used; ConfigError when an argument cannot
    be.
    """
    raise NotImplementedError


def load_agent(directory: Path, *, now: float) -> AgentState:
    """The state `raven-agent join` left; StateError when it never did, or a file cannot be used."""
    raise NotImplementedError
