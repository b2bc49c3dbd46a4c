"""What a gateway is called, and where it is dialled: in certificates, and in what agents are told."""

from __future__ import annotations

import ipaddress
import socket

from gateway.options import GatewayOptions
from raven.config import Address, parse_dial
from raven.control.messages import GATEWAYS_MAX, GatewayList, KnownGateway
from raven.names import is_name
from raven.registry.follower_state import FollowerFile
from raven.registry.interface import Registry

ANYWHERE = ("", "0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Whether who listens there hears its own machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name() -> str:
    """This machine's name where it can stand in a certificate, "gateway" otherwise."""
    name = socket.gethostname().lower()
    return name if is_name(name) else "gateway"


def advertised(options: GatewayOptions, follower: FollowerFile | None = None) -> Address:
    """Where agents are told to dial."""
    if options.advertise is not None:
        return options.advertise
    if follower is not None:
        return parse_dial(follower.address)
    host, port = options.agents_listen
    return Address(host_name() if host in ANYWHERE else host, port)


def gateway_list(registry: Registry) -> GatewayList:
    """What agents are told of the gateways there are; the first ones, where there are too many."""
    known = registry.known_gateways()
    return GatewayList(
        revision=known.revision,
        gateways=[KnownGateway(name=one.name, address=one.address) for one in known.gateways[:GATEWAYS_MAX]],
    )


def certified_hosts(options: GatewayOptions) -> list[str]:
    """What the gateway's own certificate is for: where agents dial it, and where O&M clients may."""
    hosts = [advertised(options).host]
    if options.oam_tls_listen is not None:
        here = options.oam_tls_listen.host
        hosts += [host_name(), "localhost", "127.0.0.1"] if here in ANYWHERE else [here]
    return list(dict.fromkeys(hosts))
