"""Who takes part in the packet lane, and which pod networks may stand beside one another.

A member is one WireGuard device: a site's, or a hub's. What members say about themselves comes from the
network, so `parse_pod_networks_untrusted` and `Claims` decide here, once, what the gateway accepts and what a
node may carry. `raven.topology.plan` turns the accepted members into peers and routes.
"""

import bisect
import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from raven.errors import PeerError
from raven.keys import PublicKey

IPNetwork = IPv4Network | IPv6Network

# RFC 4193, section 3.2: fd, then 40 bits of global ID, which here are the first of SHA-256("raven probe
# network"), then subnet 0. Every installation shares the prefix on purpose: the addresses are reachable
# through the packet lane only, and a pod network may never overlap them.
PROBE_NETWORK = IPv6Network("fd6b:aaf4:af96::/64")
PROBE_PORT = 4501  # next to WireGuard's 4500

POD_NETWORKS_MAX = 256  # per member; a node has two, the node that carries a site those of all its nodes
_SHORTEST_PREFIX = {4: 8, 6: 16}  # so that 0.0.0.0/1 and 128.0.0.0/1 are no way around "no default route"

_UNUSABLE = {
    "a default route": ["0.0.0.0/0", "::/0"],
    "the unspecified address": ["0.0.0.0/8", "::/128"],
    "loopback": ["127.0.0.0/8", "::1/128"],
    "link-local": ["169.254.0.0/16", "fe80::/10"],
    "multicast or broadcast": ["224.0.0.0/4", "255.255.255.255/32", "ff00::/8"],
    "an IPv4-mapped prefix": ["::ffff:0:0/96"],
    "Raven's probe network": [str(PROBE_NETWORK)],
}
_UNUSABLE_NETWORKS = [(ipaddress.ip_network(text), why) for why, texts in _UNUSABLE.items() for text in texts]


def probe_address(public_key: PublicKey) -> IPv6Address:
    """The address that answers packet-lane probes for the device of `public_key`.

    Its interface identifier is the first 64 bits of SHA-256("raven probe address" || public key): nothing to
    allocate or agree on, and whoever wants another device's address needs a second preimage.
    """
    identifier = hashlib.sha256(b"raven probe address" + public_key).digest()[:8]
    return PROBE_NETWORK[int.from_bytes(identifier, "big")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One device of the packet lane."""

    name: str
    public_key: PublicKey
    endpoint: str = ""  # HOST:PORT with a numeric host, or "" where nobody can dial it
    pod_networks: tuple[IPNetwork, ...] = ()
    hub: bool = False
    probes: bool = False  # its device answers probes of the path's MTU
    superframes: tuple[str, ...] = ()  # ciphers its device can seal superframes with, best first


def parse_pod_networks_untrusted(texts: Sequence[str]) -> tuple[IPNetwork, ...]:
    """The networks in `texts`, in their order and without those that another of them contains.

    PeerError "bad-pod-cidr", with a sentence, for what no node may carry.
    """
    if len(texts) > POD_NETWORKS_MAX:
        raise _bad(
            f"{len(texts)} pod networks are too many: at most {POD_NETWORKS_MAX} are taken from one node"
        )
    networks = [_parse_pod_network_untrusted(text) for text in texts]
    return tuple(
        network
        for position, network in enumerate(networks)
        if network not in networks[:position]
        and not any(other != network and _contains(other, network) for other in networks)
    )


def _parse_pod_network_untrusted(text: str) -> IPNetwork:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise _bad(
            f"pod network {text!r} is not an address and a prefix length, such as 10.1.0.0/24"
        ) from error
    if "%" in text:
        raise _bad(f"pod network {text!r} has a zone; a pod network is routed and cannot have one")
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise _bad(f"pod network {text} has bits set behind its prefix; did you mean {network}?")
    for unusable, why in _UNUSABLE_NETWORKS:
        if network == unusable or (unusable.prefixlen and _overlap(network, unusable)):
            raise _bad(f"pod network {text} cannot be used: it overlaps {why} ({unusable})")
    shortest = _SHORTEST_PREFIX[network.version]
    if network.prefixlen < shortest:
        raise _bad(
            f"pod network {text} is too wide: an IPv{network.version} prefix has at least {shortest} bits"
        )
    return network


def _bad(message: str) -> PeerError:
    return PeerError("bad-pod-cidr", message)


# Which ranges the pod networks of a node have to lie in, by the node's name. Nothing is a range of nobody's.
PodRanges = Callable[[str], Sequence[IPNetwork]]


def unauthorised(name: str, networks: Iterable[IPNetwork], ranges: Sequence[IPNetwork]) -> str:
    """A sentence for the first of `networks` that lies in none of `ranges`; "" when all do."""
    for network in networks:
        if not any(_contains(outer, network) for outer in ranges):
            return (
                f"node {name} may not carry pod network {network}: nobody allowed it; "
                f"`raven-gateway node allow {name} --pod-cidr {network}` does, and --pod-range for all nodes"
            )
    return ""


@dataclass(slots=True)
class Claims:
    """Who holds which pod network, device key and name. First come, first served.

    Networks either nest or are disjoint, and held ones are disjoint from those of others, so one bisection by
    first address finds an overlap.
    """

    _starts: dict[int, list[int]] = field(default_factory=lambda: {4: [], 6: []})
    _held: dict[int, list[tuple[IPNetwork, str]]] = field(default_factory=lambda: {4: [], 6: []})
    _keys: dict[PublicKey, str] = field(default_factory=dict)
    _addresses: dict[IPv6Address, str] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def conflict(self, member: Member) -> str:
        """A sentence that says what of `member` somebody else holds; "" when nothing is."""
        if member.name in self._names:
            return f"the name {member.name} is taken by another device of the packet lane"
        if (other := self._keys.get(member.public_key)) is not None:
            return f"node {member.name} offers the WireGuard public key of {other}, which registered it first"
        if (other := self._addresses.get(probe_address(member.public_key))) is not None:
            return f"node {member.name} needs a new WireGuard key: its probe address is the one of {other}"
        for network in member.pod_networks:
            for held, other in self._overlapping(network):
                return (
                    f"pod network {network} of node {member.name} overlaps {held} of {other}, "
                    "which registered it first"
                )
        return ""

    def hold(self, member: Member) -> None:
        """Records the claims of a member that has no conflict."""
        assert not self.conflict(member), self.conflict(member)
        self._names.add(member.name)
        self._keys[member.public_key] = member.name
        self._addresses[probe_address(member.public_key)] = member.name
        for network in member.pod_networks:
            start = int(network.network_address)
            position = bisect.bisect_left(self._starts[network.version], start)
            self._starts[network.version].insert(position, start)
            self._held[network.version].insert(position, (network, member.name))

    def release(self, member: Member) -> None:
        """Gives up the claims of a member that was held."""
        self._names.remove(member.name)
        del self._keys[member.public_key]
        del self._addresses[probe_address(member.public_key)]
        for network in member.pod_networks:
            starts = self._starts[network.version]
            position = bisect.bisect_left(starts, int(network.network_address))
            assert self._held[network.version][position] == (network, member.name)
            del starts[position], self._held[network.version][position]

    def _overlapping(self, network: IPNetwork) -> Iterable[tuple[IPNetwork, str]]:
        starts, held = self._starts[network.version], self._held[network.version]
        after = bisect.bisect_right(starts, int(network.network_address))
        return [entry for entry in held[max(0, after - 1) : after + 1] if _overlap(entry[0], network)]


def find_conflicts(members: Iterable[Member]) -> list[tuple[Member, str]]:
    """The members that cannot take part, with a sentence each; `members` come in order of registration."""
    claims = Claims()
    losers: list[tuple[Member, str]] = []
    for member in members:
        if problem := claims.conflict(member):
            losers.append((member, problem))
        else:
            claims.hold(member)
    return losers


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return _contains(one, other) or _contains(other, one)


def _contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    if outer.version != inner.version or outer.prefixlen > inner.prefixlen:
        return False
    shift = outer.max_prefixlen - outer.prefixlen
    return int(outer.network_address) >> shift == int(inner.network_address) >> shift
