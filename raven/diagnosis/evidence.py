"""What was seen on the way to a gateway, as values: gathered by `contact`, judged by `judge`."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Final

TIMED_OUT: Final = errno.ETIMEDOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """The answer of the resolver for one address family."""

    family: int  # 4 or 6
    addresses: tuple[str, ...] = ()
    problem: str = ""  # the resolver's words
    temporary: bool = False  # the servers did not answer, so there may be such a name


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A TCP connection to one address."""

    address: str  # numeric, HOST:PORT
    seconds: float | None = None  # until it was established; None: it was not
    problem: str = ""
    errno: int = 0
    source: str = ""  # our address on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxied:
    """A connection through an HTTP proxy, which looks up the gateway's name itself."""

    proxy: str  # HOST:PORT
    seconds: float | None = None  # until it let us through; None: it did not
    reason: str = ""  # the constant word of what ended it, as of `raven.net.dial`
    problem: str = ""
    source: str = ""  # our address on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a gateway shows a stranger who has said nothing but raven-join/1."""

    ca_pem: str
    cluster: str
    leaf_der: bytes = field(repr=False)
    ahead: float  # seconds its clock is ahead of ours, give or take half of `seconds`
    seconds: float  # from the start of the TLS handshake until it was seen
    source: str = ""  # HOST:PORT of this end of the connection; "" through a proxy
    seen_as: str = ""  # the same as the gateway sees it; "" from one that does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """The way to one gateway, as far as it went."""

    host: str
    port: int
    proxied: Proxied | None = None  # in place of lookups and attempts
    lookups: tuple[Lookup, ...] = ()  # empty for a numeric host
    attempts: tuple[Attempt, ...] = ()
    tls_reason: str = ""  # the constant word of what ended TLS or the greeting
    tls_problem: str = ""
    shown: Shown | None = None

    @property
    def name(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def connected(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.seconds is not None)

    @property
    def reached(self) -> bool:
        """Whether there was a connection, over which TLS could be tried."""
        return bool(self.connected) or (self.proxied is not None and self.proxied.seconds is not None)
