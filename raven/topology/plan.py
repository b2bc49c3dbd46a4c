"""What one device of the packet lane has to hold: its peers, their allowed IPs, the host's routes.

Hub and spokes. A hub peers with every spoke; a spoke peers with the hubs only, and sends through the first of
them what is for other spokes. `plan` is a pure function of the members, so gateway and agents agree without
talking about it; `diff` says what to change and nothing else, so that a peer that stays is not touched:
touching it would set back the endpoint it has roamed to.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from raven.keys import PublicKey
from raven.topology.model import PROBE_NETWORK, IPNetwork, Member, probe_address

# NATs forget an idle UDP flow after 30 s or more (RFC 4787, REQ-5, asks for 2 minutes), hence 25 s, which
# WireGuard recommends. Spokes only: nobody dials them, so their mapping has to stay open.
PERSISTENT_KEEPALIVE = 25  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPlan:
    """A peer of the device."""

    public_key: PublicKey
    endpoint: str = ""  # HOST:PORT; "" leaves it to the peer to be heard from
    keepalive: int = 0  # seconds; 0: none
    allowed_ips: frozenset[IPNetwork] = frozenset()
    probes: bool = False  # it answers probes of the path's MTU
    superframes: str = ""  # the cipher of superframes to and from it; "": none


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A destination that the host reaches through the device."""

    destination: IPNetwork


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it, for one device. The empty plan is a device with no peers on a host with no routes."""

    peers: frozenset[PeerPlan] = frozenset()
    routes: frozenset[RoutePlan] = frozenset()
    address: IPv6Address | None = None  # the device's own; answers probes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChange:
    """A peer to add or to alter; None leaves a field as it is."""

    public_key: PublicKey
    endpoint: str | None = None  # "": no longer prescribed; the device keeps the one it has
    keepalive: int | None = None  # seconds
    allowed_ips: frozenset[IPNetwork] | None = None  # the whole set, in place of the one before
    probes: bool | None = None
    superframes: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What turns one plan into another; `not changes` when they are equal.

    To be applied in the order of the fields: a network moves to its new peer, then the host learns which
    networks to send to the device, then the peers go that carry nothing any more. So no packet meets a route
    without a peer.
    """

    peers_changed: tuple[PeerChange, ...] = ()  # in the order of keys
    address: IPv6Address | None = None  # of the new plan
    address_changed: bool = False
    routes_added: frozenset[RoutePlan] = frozenset()
    routes_removed: frozenset[RoutePlan] = frozenset()
    peers_removed: frozenset[PublicKey] = frozenset()

    def __bool__(self) -> bool:
        return self != Changes(address=self.address)


def plan(members: Sequence[Member], me: PublicKey, *, alone: bool = True) -> Plan:
    """The plan of the device with key `me`; the empty plan when it is no member.

    A device that is not `alone` on its host has a route to each peer's probe address in place of one to the
    whole network of them.

    `members` have no conflicts (`find_conflicts`) and come in an order that all devices agree on: the first
    hub carries what is between spokes.
    """
    own = next((member for member in members if member.public_key == me), None)
    if own is None:
        return Plan()
    others = [member for member in members if member.public_key != me]
    peers = _hub_peers(own, others) if own.hub else _spoke_peers(own, others)
    carried = {network for peer in peers for network in peer.allowed_ips}
    routes = {RoutePlan(network) for network in carried if not alone or not _is_probe(network)}
    if peers and alone:
        routes.add(RoutePlan(PROBE_NETWORK))
    return Plan(frozenset(peers), frozenset(routes), probe_address(me))


def _hub_peers(own: Member, others: Iterable[Member]) -> list[PeerPlan]:
    return [
        PeerPlan(
            public_key=member.public_key,
            endpoint=member.endpoint if member.hub else "",
            allowed_ips=_own_networks(member),
            probes=member.probes,
            superframes=_superframes(own, member),
        )
        for member in others
    ]


def _spoke_peers(own: Member, others: Sequence[Member]) -> list[PeerPlan]:
    hubs = [member for member in others if member.hub]
    peers = []
    for hub in hubs:
        allowed = _own_networks(hub)
        if hub is hubs[0]:
            # WireGuard prefers the longer prefix, so the probe addresses of further hubs stay with them.
            allowed |= {network for member in others if not member.hub for network in member.pod_networks}
            allowed |= {PROBE_NETWORK}
        peers.append(
            PeerPlan(
                public_key=hub.public_key,
                endpoint=hub.endpoint,
                keepalive=PERSISTENT_KEEPALIVE,
                allowed_ips=allowed,
                probes=hub.probes,
                superframes=_superframes(own, hub),
            )
        )
    return peers


def _superframes(one: Member, other: Member) -> str:
    """The cipher that both take: the best of the one with the lower key that the other has too, or ""."""
    if other.public_key < one.public_key:
        one, other = other, one
    return next((cipher for cipher in one.superframes if cipher in other.superframes), "")


def _own_networks(member: Member) -> frozenset[IPNetwork]:
    return frozenset((*member.pod_networks, IPv6Network(probe_address(member.public_key))))


def _is_probe(network: IPNetwork) -> bool:
    return isinstance(network, IPv6Network) and network.subnet_of(PROBE_NETWORK)


def diff(old: Plan, new: Plan) -> Changes:
    """What makes a device that holds `old` hold `new`; nothing about a peer that stays as it is."""
    before = {peer.public_key: peer for peer in old.peers}
    after = {peer.public_key: peer for peer in new.peers}
    return Changes(
        peers_changed=tuple(
            _peer_diff(before.get(key), after[key]) for key in sorted(after) if before.get(key) != after[key]
        ),
        address=new.address,
        address_changed=old.address != new.address,
        routes_added=new.routes - old.routes,
        routes_removed=old.routes - new.routes,
        peers_removed=frozenset(before.keys() - after.keys()),
    )


def _peer_diff(old: PeerPlan | None, new: PeerPlan) -> PeerChange:
    was = old or PeerPlan(public_key=new.public_key)
    return PeerChange(
        public_key=new.public_key,
        endpoint=new.endpoint if new.endpoint != was.endpoint else None,
        keepalive=new.keepalive if new.keepalive != was.keepalive else None,
        allowed_ips=new.allowed_ips if new.allowed_ips != was.allowed_ips else None,
        probes=new.probes if new.probes != was.probes else None,
        superframes=new.superframes if new.superframes != was.superframes else None,
    )


def apply(old: Plan, changes: Changes) -> Plan:
    """The plan that a device holds after `changes`: what `diff` promises, as a function."""
    peers = {peer.public_key: peer for peer in old.peers if peer.public_key not in changes.peers_removed}
    for change in changes.peers_changed:
        was = peers.get(change.public_key) or PeerPlan(public_key=change.public_key)
        peers[change.public_key] = PeerPlan(
            public_key=change.public_key,
            endpoint=was.endpoint if change.endpoint is None else change.endpoint,
            keepalive=was.keepalive if change.keepalive is None else change.keepalive,
            allowed_ips=was.allowed_ips if change.allowed_ips is None else change.allowed_ips,
            probes=was.probes if change.probes is None else change.probes,
            superframes=was.superframes if change.superframes is None else change.superframes,
        )
    return Plan(
        peers=frozenset(peers.values()),
        routes=(old.routes - changes.routes_removed) | changes.routes_added,
        address=changes.address if changes.address_changed else old.address,
    )
