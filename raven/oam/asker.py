"""Who asks for something at the edge: what an O&M client has proved about itself, and words to match it with.

An entry of the gateway finds out (certificate, Unix-socket credentials, token, source network), the gateway's
policy and the agent's allow list match, the audit writes it down. A name is `KIND:NAME`; whoever accepted the
proof decides the kind, so a certificate of a foreign CA can never call itself an operator of ours.
"""

import ipaddress
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from raven.errors import PeerError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

NAME_MAX: Final = 160  # characters of one name, kind and all; X.509 common names have 64
NAMES_MAX: Final = 32  # of one asker; a Kubernetes user is in a handful of groups

# What each kind of name was proved with; in the order in which people know somebody best.
KINDS: Final = {
    "operator": "a certificate that Raven's own CA made for an operator",
    "cert": "the common name of a certificate of the CA in oam_client_ca",
    "group": "an organization in that certificate; Kubernetes keeps groups there",
    "token": "an access token, by the name it was made for",
    "uid": "the user at the other end of the Unix socket",
    "gid": "that user's primary group",
}
ANONYMOUS: Final = "anonymous"
FROM: Final = "from"  # matches the network an asker comes from; nobody's name

# Printable ASCII without blank and comma: a name stands in lists, log lines and the rules of an agent.
_NAME = re.compile(r"[\x21-\x2b\x2d-\x7e]+", re.ASCII)
_EXPECTED = (
    f"expected one of {', '.join(f'{kind}:NAME' for kind in KINDS)}, from:NETWORK or *; a NAME may end in *"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Somebody at an O&M entry. Without names it is anybody who reaches the entry."""

    address: str  # where it comes from, for people: HOST:PORT, or "unix"
    names: tuple[str, ...] = ()  # KIND:NAME, the best first
    source: IPAddress | None = None  # where it comes from, for rules; None on a Unix socket
    credentials: tuple[str, ...] = ()  # ids of what proved the names, where they can be revoked
    expires: float = math.inf  # Unix seconds; of a certificate that proved them

    @property
    def identity(self) -> str:
        """The one name under which it is counted and limited."""
        if self.names:
            return self.names[0]
        return ANONYMOUS

    def __str__(self) -> str:
        return f"{self.identity} at {self.address}"


NOBODY: Final = Asker(address="unknown")


def asker_from_address(address: str, host: str, names: Iterable[str] = ()) -> Asker:
    """The asker at `host`, which is what the kernel calls it; what is no address matches no network."""
    try:
        source: IPAddress | None = plain_address(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        source = None
    return Asker(address=address, names=tuple(names), source=source)


def asker_told(address: str, names: Iterable[str]) -> Asker:
    """The asker as another end tells of it: `address` is HOST:PORT, or anything that matches no network."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    return asker_from_address(address, host, names)


def plain_address(address: IPAddress) -> IPAddress:
    """IPv4 where a dual-stack socket shows it as IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def name_untrusted(kind: str, text: str) -> str:
    """`KIND:NAME` from what a certificate or another end calls itself; PeerError "bad-identity"."""
    assert kind in KINDS, kind
    name = f"{kind}:{text}"
    if not _NAME.fullmatch(text) or len(name) > NAME_MAX:
        raise PeerError(
            "bad-identity",
            f"{text[:NAME_MAX]!r} cannot be a name here: printable ASCII without blank and comma",
        )
    return name


@dataclass(frozen=True, slots=True)
class Who:
    """A word that matches askers: a name, the beginning of one, a network, or everybody."""

    kind: str  # "" for everybody
    name: str = ""
    network: IPNetwork | None = None

    @classmethod
    def parse(cls, text: str) -> "Who":
        """ValueError names the word and what was expected."""
        if text == "*":
            return cls("")
        kind, colon, name = text.partition(":")
        if kind == FROM and colon:
            bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
            try:
                return cls(FROM, network=ipaddress.ip_network(bare))
            except ValueError as error:
                raise ValueError(f"{text!r}: {error}; expected from:NETWORK, as in from:10.0.0.0/8") from None
        if kind not in KINDS or not _NAME.fullmatch(name) or "*" in name[:-1] or len(text) > NAME_MAX:
            raise ValueError(f"{text!r}: {_EXPECTED}")
        return cls(kind, name)

    def __str__(self) -> str:
        if not self.kind:
            return "*"
        return f"{self.kind}:{self.network if self.network is not None else self.name}"

    def matches(self, asker: Asker) -> bool:
        if not self.kind:
            return True
        if self.network is not None:
            return asker.source is not None and asker.source in self.network
        text = f"{self.kind}:{self.name}"
        if text.endswith("*"):
            return any(name.startswith(text[:-1]) for name in asker.names)
        return text in asker.names


def matches_any(who: Iterable[Who], asker: Asker) -> bool:
    return any(one.matches(asker) for one in who)
