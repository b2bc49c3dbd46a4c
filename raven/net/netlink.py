"""The host's side of a WireGuard interface: its link, its address, the routes over it.

Importing it costs 5 MB for pyroute2, so the lane does that once there is an interface. What is made here
carries routing protocol 82; what does not is somebody else's and is never replaced or removed. `hold` is
idempotent and looks for itself what is missing, so it may be called at any time and after any crash. Calls
block for some milliseconds; the lane runs them in a thread.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

from raven.errors import RavenError
from raven.net.pyroute import IPRoute, NetlinkError
from raven.net.sysctls import InterfaceSysctls
from raven.topology.model import PROBE_NETWORK, IPNetwork

IPAddress = IPv4Address | IPv6Address

PROTOCOL = 82  # rtm_protocol and ifa_proto: "R". No name in rtnetlink.h or iproute2's rt_protos takes it
_MAIN_TABLE = 254  # RT_TABLE_MAIN
_SCOPE_LINK = 253  # RT_SCOPE_LINK: no gateway, as `ip route add NET dev IF` makes it
_IFF_UP = 1
_IFA_F_NODAD = 0x02  # nobody else is on the link, so the address need not wait for an objection
_IFA_F_NOPREFIXROUTE = 0x200


class HostError(RavenError):
    """The host does not let packets over the interface; the message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link as it was found."""

    index: int
    up: bool
    mtu: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the host shall hold for the interface."""

    address: IPv6Address | None = None  # as a /128
    routes: frozenset[IPNetwork] = frozenset()
    own_networks: tuple[IPNetwork, ...] = ()  # pods of this host, whose packets have to be forwarded
    endpoints: frozenset[IPAddress] = frozenset()  # outer addresses, which no route may swallow


@dataclass(slots=True)
class HostInterface:
    """The host's side of the interface `name`, in the network namespace of the calling thread."""

    name: str
    sysctls: InterfaceSysctls = field(init=False)

    def __post_init__(self) -> None:
        self.sysctls = InterfaceSysctls(self.name)

    def link(self) -> Link | None:
        with _netlink() as ipr:
            return self._find(ipr)

    def bring_up(self) -> Link:
        """Sets the link up, and returns it as it was found. HostError when it is not there."""
        with _netlink() as ipr:
            link = self._find(ipr)
            if link is None:
                raise HostError(f"there is no interface {self.name} in this network namespace")
            self.sysctls.prepare(ipv6_pods=False)
            if not link.up:
                ipr.link("set", index=link.index, state="up")
            return link

    def set_down(self) -> None:
        """Sets the link down; nothing happens when it is gone."""
        with _netlink() as ipr:
            if link := self._find(ipr):
                ipr.link("set", index=link.index, state="down")

    def hold(self, want: Wanted) -> list[str]:
        """Brings the link up with what is wanted, and takes away what was laid before and is not.

        Returns a sentence for each thing that could not be had while the rest is. HostError: nothing could.
        """
        ipv6_pods = any(
            isinstance(network, IPv6Network) and not network.subnet_of(PROBE_NETWORK)
            for network in want.routes
        )
        with _netlink() as ipr:
            link = self._find(ipr)
            if link is None:
                raise HostError(f"there is no interface {self.name} in this network namespace")
            self.sysctls.prepare(ipv6_pods=ipv6_pods)
            if not link.up:
                ipr.link("set", index=link.index, state="up")
            address, routes, problems = want.address, want.routes, []
            if reason := self.sysctls.ipv6_off():
                problems.append(f"{reason}: packet-lane probes and IPv6 pod networks do not work")
                address, routes = None, frozenset(route for route in routes if route.version == 4)
            self._hold_address(ipr, link, address)
            problems += self._hold_routes(ipr, link, routes, want.endpoints)
            behind = {version: self._pod_interfaces(ipr, link, want, version) for version in (4, 6)}
            return problems + self.sysctls.forwarding_problems(
                ipv4=behind[4], ipv6=behind[6], ipv6_pods=ipv6_pods
            )

    def release(self) -> None:
        """Takes away what `hold` made, of this process or an earlier one; the link itself stays."""
        with _netlink() as ipr:
            if link := self._find(ipr):
                self._hold_address(ipr, link, None)
                self._hold_routes(ipr, link, frozenset(), frozenset())
        self.sysctls.restore()

    def _find(self, ipr: IPRoute) -> Link | None:
        for index in ipr.link_lookup(ifname=self.name):
            for message in ipr.get_links(index):
                return Link(index, bool(message["flags"] & _IFF_UP), message.get("mtu"))
        return None

    def _hold_address(self, ipr: IPRoute, link: Link, wanted: IPv6Address | None) -> None:
        held = False
        for message in ipr.get_addr(family=socket.AF_INET6, index=link.index):
            address = IPv6Address(message.get("address"))
            if address == wanted:
                held = True
            elif (
                message.get("proto") == PROTOCOL or address in PROBE_NETWORK
            ):  # kernels before 5.18 keep no mark
                bits = message["prefixlen"]
                _ignore_missing(ipr.addr, "del", index=link.index, address=str(address), prefixlen=bits)
        if wanted is not None and not held:
            flags = _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE
            ipr.addr("add", index=link.index, address=str(wanted), prefixlen=128, flags=flags, proto=PROTOCOL)

    def _hold_routes(
        self, ipr: IPRoute, link: Link, wanted: frozenset[IPNetwork], endpoints: frozenset[IPAddress]
    ) -> list[str]:
        mine: set[IPNetwork] = set()  # over our link, whoever laid them
        marked: set[IPNetwork] = set()
        problems: dict[IPNetwork, str] = {}
        for message in _routes(ipr):
            destination = _destination(message)
            if message.get("oif") == link.index:
                mine.add(destination)
                if message["proto"] == PROTOCOL:
                    marked.add(destination)
            elif destination in wanted:
                problems[destination] = f"this host has a route to {destination} {_way(message)} already"
        problems |= _collisions(ipr, link, wanted, endpoints)
        for destination in sorted(marked - (wanted - problems.keys()), key=str):
            _ignore_missing(ipr.route, "del", **_route(link, destination))
        for destination in sorted(wanted - mine - problems.keys(), key=str):
            try:
                ipr.route("add", **_route(link, destination))
            except NetlinkError as error:
                problems[destination] = f"the kernel refuses a route to {destination}: {_words(error)}"
        return [
            f"{problems[destination]}; packets for it do not take the packet lane"
            for destination in sorted(problems, key=str)
        ]

    def _pod_interfaces(self, ipr: IPRoute, link: Link, want: Wanted, version: int) -> set[str]:
        """The interfaces that pods of this host are behind, by the routes into its own pod networks."""
        own = [network for network in want.own_networks if network.version == version]
        if not own:
            return set()
        indices = {
            message.get("oif")
            for message in _routes(ipr)
            if (destination := _destination(message)).version == version
            and any(_contains(network, destination) for network in own)
        }
        # "lo": an address of this host itself, to which nothing is forwarded.
        return {_interface_name(index) for index in indices - {None, link.index}} - {"lo"}


@contextmanager
def _netlink() -> Iterator[IPRoute]:
    """A netlink socket for one round of calls; what the kernel refuses becomes a HostError.

    One a round, because pyroute2's sockets belong to the thread, and its namespace, that opened them, and
    opening one takes half a millisecond.
    """
    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        if error.code == errno.EPERM:
            raise HostError("this process may not change links and routes: it lacks CAP_NET_ADMIN") from error
        raise HostError(f"the kernel refuses to set up the interface: {_words(error)}") from error
    except OSError as error:
        raise HostError(f"no netlink socket: {error.strerror or error}") from error


def _words(error: NetlinkError) -> str:
    return f"{error.args[-1]} (errno {error.code})"


def _ignore_missing(call: Callable[..., Any], *arguments: Any, **wishes: Any) -> None:
    """Calls; what another hand removed before us is as good as removed."""
    try:
        call(*arguments, **wishes)
    except NetlinkError as error:
        if error.code not in (errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL):
            raise


def _routes(ipr: IPRoute) -> Iterator[Any]:
    """The routes of the main table, both families."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in ipr.get_routes(family=family, table=_MAIN_TABLE):
            if (message.get("table") or message["table"]) == _MAIN_TABLE:
                yield message


def _destination(message: Any) -> IPNetwork:
    any_address = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"  # a default route has no dst
    return ipaddress.ip_network((message.get("dst") or any_address, message["dst_len"]))


def _route(link: Link, destination: IPNetwork) -> dict[str, Any]:
    wishes = {"dst": str(destination), "oif": link.index, "proto": PROTOCOL, "table": _MAIN_TABLE}
    return wishes | ({"scope": _SCOPE_LINK} if destination.version == 4 else {})


def _way(message: Any) -> str:
    """`via 10.0.0.1 on eth0 (protocol 4)`, for a sentence."""
    words = []
    if gateway := message.get("gateway"):
        words.append(f"via {gateway}")
    if index := message.get("oif"):
        words.append(f"on {_interface_name(index)}")
    return " ".join([*words, f"(protocol {message['proto']})"])


def _collisions(
    ipr: IPRoute, link: Link, wanted: Iterable[IPNetwork], endpoints: Iterable[IPAddress]
) -> dict[IPNetwork, str]:
    """The wanted routes that would take away addresses this host needs, with the start of a sentence each.

    What nodes offer decides about routes, so a node must not be able to pull the gateway's neighbours over.
    """
    needed: dict[IPAddress, str] = dict.fromkeys(endpoints, "the endpoint of its own tunnel")
    connected: dict[IPNetwork, str] = {}
    for message in ipr.get_addr():
        address = ipaddress.ip_address(message.get("local") or message.get("address"))
        if message["index"] == link.index or address.is_link_local or address.is_loopback:
            continue
        name = _interface_name(message["index"])
        needed[address] = f"this host's own address on {name}"
        connected[ipaddress.ip_network((address, message["prefixlen"]), strict=False)] = name
    problems: dict[IPNetwork, str] = {}
    for network in wanted:
        inside = next((address for address in needed if address in network), None)
        around = next((wide for wide in connected if _contains(wide, network)), None)
        if inside is not None:
            problems[network] = f"pod network {network} contains {inside}, {needed[inside]}"
        elif around is not None:
            problems[network] = f"pod network {network} lies in {around}, the network of {connected[around]}"
    return problems


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def _contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    return outer.version == inner.version and outer.prefixlen <= inner.prefixlen and outer.overlaps(inner)
