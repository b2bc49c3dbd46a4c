"""What the owner of a node lets others reach through its agent: the allow list and its verdicts.

The agent asks twice: `judge_host` before it looks a name up, `judge_addresses` with every address it is about
to try. A name proves nothing by itself: whoever controls the DNS answer would otherwise choose the target
(DNS rebinding), so only a rule with that very name, or rules that cover every address, permit it.

A rule may end in ` for WHO,WHO`: then it counts for those askers alone. Who asks is the gateway's word, so
such a rule guards against askers, not against the gateway.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from raven.errors import RefusedError
from raven.oam.asker import NOBODY, Asker, IPAddress, IPNetwork, Who, matches_any

# kubelet, kubelet read-only, node exporter, and what OpenYurt Raven proxies beside them
DEFAULT_ALLOW: Final = ("node:10250", "node:10255", "node:9100", "node:9445")

# Where clouds hand out credentials to whoever asks from inside. An edge machine may well be a cloud instance,
# and `*` or a wide network in its list was not written with these in mind. Sources: the providers' manuals.
METADATA_ADDRESSES: Final = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "169.254.169.254",  # AWS, Azure, Google, OpenStack, DigitalOcean, Oracle
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure WireServer
        "192.0.0.192",  # Oracle Cloud, classic
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # AWS EKS pod identity over IPv6
        "fd20:ce::254",  # Google over IPv6
        "fe80::a9fe:a9fe",  # OpenStack over IPv6
    )
)
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits

_FOR: Final = " for "
_EXPECTED = (
    "expected HOST:PORT, as in node:10250, 192.168.1.0/24:502, [fd00::1]:443, printer.lan:9100-9110, *:* or"
    " node:22 for operator:alice"
)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.ASCII)


class Anywhere(Enum):
    """The two hosts of a rule that are neither an address nor a name."""

    NODE = "node"
    """The machine the agent runs on: loopback and its own address."""
    ANY = "*"
    """Every host but metadata addresses."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the list: `host` at any port in one of `ports` (inclusive ranges)."""

    host: Anywhere | IPNetwork | str  # a str is a name, lower case, without a final dot
    ports: tuple[tuple[int, int], ...]
    who: tuple[Who, ...] = ()  # empty for whoever the gateway lets through

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule `text` spells; ValueError names the rule and what was expected."""
        what, limited, names = text.strip().partition(_FOR)
        host, colon, ports = what.strip().rpartition(":")
        if not colon or not host:
            raise ValueError(f"allow rule {text!r}: {_EXPECTED}")
        try:
            who = tuple(Who.parse(name.strip()) for name in names.split(",")) if limited else ()
        except ValueError as error:
            raise ValueError(f"allow rule {text!r}: {error}") from None
        return cls(_parse_host(host, text), tuple(_parse_ports(part, text) for part in ports.split(",")), who)

    def permits_port(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self.ports)

    def __str__(self) -> str:
        return self._what() + (_FOR + ",".join(map(str, self.who)) if self.who else "")

    def _what(self) -> str:
        ports = ",".join(
            "*" if r == (1, 65535) else str(r[0]) if r[0] == r[1] else f"{r[0]}-{r[1]}" for r in self.ports
        )
        if isinstance(self.host, Anywhere):
            return f"{self.host.value}:{ports}"
        if isinstance(self.host, str):
            return f"{self.host}:{ports}"
        alone = self.host.prefixlen == self.host.max_prefixlen
        host = str(self.host.network_address) if alone else str(self.host)
        return f"[{host}]:{ports}" if self.host.version == 6 else f"{host}:{ports}"


def _parse_host(host: str, text: str) -> Anywhere | IPNetwork | str:
    if host in ("node", "*"):
        return Anywhere(host)
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ValueError(f"allow rule {text!r}: an IPv6 address stands in brackets; {_EXPECTED}")
    bare = host[1:-1] if bracketed else host
    if bracketed or "/" in bare or re.fullmatch(r"[0-9.]+", bare):
        try:
            network = ipaddress.ip_network(bare)
            return ipaddress.ip_network(real_address(network[0])) if network.num_addresses == 1 else network
        except ValueError as error:
            raise ValueError(f"allow rule {text!r}: {error}; {_EXPECTED}") from None
    name = normal_host(bare)
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise ValueError(f"allow rule {text!r}: {bare!r} is neither an address nor a host name; {_EXPECTED}")
    return name


def _parse_ports(part: str, text: str) -> tuple[int, int]:
    if part == "*":
        return 1, 65535
    first, _, last = part.partition("-")
    last = last if "-" in part else first
    if all(re.fullmatch("[0-9]{1,5}", digits) for digits in (first, last)):
        low, high = int(first), int(last)
        if 1 <= low <= high <= 65535:
            return low, high
    raise ValueError(
        f"allow rule {text!r}: port {part!r} is not a number or range from 1 to 65535; {_EXPECTED}"
    )


def normal_host(host: str) -> str:
    """The one spelling under which a host name is compared: lower case, without the root's dot."""
    return host.lower().removesuffix(".")


def literal_address(host: str) -> IPAddress | None:
    """The address that `host` spells out, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def real_address(address: IPAddress) -> IPAddress:
    """The address that a connection to `address` ends at: the kernel's and the network's aliases undone.

    IPv4-mapped and NAT64 addresses become IPv4, the unspecified address is this machine's loopback, and a
    zone is dropped, so that no other spelling of an address escapes its rule.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return real_address(address.ipv4_mapped)
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.is_unspecified:
            return ipaddress.IPv6Address("::1")
        return ipaddress.IPv6Address(int(address))
    return ipaddress.IPv4Address("127.0.0.1") if address.is_unspecified else address


class Allow:
    """The allow list of one agent. Immutable; order has no meaning, there are no deny rules."""

    def __init__(self, rules: Iterable[Rule], node_address: IPAddress | None = None) -> None:
        self.rules = tuple(rules)
        self._node_address = None if node_address is None else real_address(node_address)

    @classmethod
    def parse(cls, rules: Iterable[str] = DEFAULT_ALLOW, node_address: IPAddress | None = None) -> "Allow":
        """The list that `rules` spell; ValueError names the rule that is wrong and what was expected."""
        return cls((Rule.parse(text) for text in rules), node_address)

    def permits(self, host: str, port: int, addresses: Sequence[IPAddress], asker: Asker = NOBODY) -> bool:
        """Whether the agent may connect to `host` ("" is the node) at `port` by way of all `addresses`."""
        try:
            self.judge_host(host, port, asker)
            self.judge_addresses(host, port, addresses, asker)
        except RefusedError:
            return False
        return True

    def permitted_to(self, host: str, port: int, addresses: Sequence[IPAddress]) -> list[Who]:
        """The words of rules for some askers alone that permit such a request, in the order of the list."""
        words = dict.fromkeys(word for rule in self.rules for word in rule.who)
        return [word for word in words if self._for(word).permits(host, port, addresses)]

    def _for(self, word: Who) -> "Allow":
        """The list as it counts for an asker who is `word` and nothing else."""
        rules = [replace(rule, who=()) for rule in self.rules if not rule.who or word in rule.who]
        return Allow(rules, self._node_address)

    def judge_host(self, host: str, port: int, asker: Asker = NOBODY) -> None:
        """Returns if some answer of the DNS could permit `host` at `port`; else RefusedError "not-allowed".

        A request that cannot succeed causes no DNS question: a stranger would otherwise speak through it.
        """
        name = normal_host(host)
        rules = self._rules_for(name, port, asker)
        address = literal_address(name)
        if not rules or (address is not None and not self._permits_address(address, rules)):
            raise self._refusal(host, port, rules)

    def judge_addresses(
        self, host: str, port: int, addresses: Sequence[IPAddress], asker: Asker = NOBODY
    ) -> None:
        """Returns if every address may be tried on behalf of `host`; RefusedError "not-allowed" otherwise."""
        name = normal_host(host)
        rules = self._rules_for(name, port, asker)
        by_name = any(rule.host == name for rule in rules)
        for address in addresses:
            # A service bound to loopback trusts its machine; a DNS answer must not borrow that trust.
            real = real_address(address)
            named = (
                by_name and real not in METADATA_ADDRESSES and (name == "localhost" or not real.is_loopback)
            )
            if not named and not self._permits_address(address, rules):
                raise self._refusal(host, port, rules)
        if not rules or (name and not addresses):
            raise self._refusal(host, port, rules)

    def _rules_for(self, name: str, port: int, asker: Asker) -> list[Rule]:
        """The rules that say something about a request for `name` at `port` by `asker`."""
        rules = [
            rule
            for rule in self.rules
            if rule.permits_port(port) and (not rule.who or matches_any(rule.who, asker))
        ]
        if not name:
            return [rule for rule in rules if isinstance(rule.host, Anywhere)]
        if literal_address(name) is not None or name == "localhost":
            return [rule for rule in rules if not isinstance(rule.host, str) or rule.host == name]
        # `node` is what the gateway calls the node: a name that happens to lead here has no part in it.
        return [
            rule
            for rule in rules
            if rule.host is not Anywhere.NODE and (not isinstance(rule.host, str) or rule.host == name)
        ]

    def _permits_address(self, address: IPAddress, rules: Iterable[Rule]) -> bool:
        real = real_address(address)
        if real in METADATA_ADDRESSES:
            return any(_is_alone(rule.host, real) for rule in rules)
        own = real.is_loopback or real == self._node_address
        for rule in rules:
            if rule.host is Anywhere.ANY or (rule.host is Anywhere.NODE and own):
                return True
            if isinstance(rule.host, IPNetwork) and real in rule.host:
                return True
        return False

    def _refusal(self, host: str, port: int, rules: Sequence[Rule]) -> RefusedError:
        shown = f"{'node' if not host else f'[{host}]' if ':' in host else host}:{port}"
        # What a name means behind the node stays there: only the asker's own words are repeated.
        if literal_address(host) in METADATA_ADDRESSES:
            hint = "a metadata address needs a rule with this very address"
        elif any(rule.host == normal_host(host) for rule in rules):
            hint = "it leads to an address that a rule by name does not open; its owner can list the address"
        else:
            hint = f"its owner can add the rule {shown}"
        return RefusedError("not-allowed", f"the node's allow list does not permit {shown}; {hint}")


def _is_alone(host: Anywhere | IPNetwork | str, address: IPAddress) -> bool:
    return isinstance(host, IPNetwork) and host.num_addresses == 1 and host.network_address == address
