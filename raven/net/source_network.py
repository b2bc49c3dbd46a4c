"""The network that a source address is counted under, where one source must not take everybody's place.

A /24 and a /64 are what one customer of an access provider has as a matter of course; whoever fills places
from many of them needs many machines.
"""

import ipaddress

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def network_of(address: IPAddress) -> IPNetwork:
    """The network around `address`; that of the IPv4 address where a dual-stack socket shows one as IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            # By number: a zone is how this machine tells its links apart, and no part of a network.
            return ipaddress.IPv6Network((int(address) >> 64 << 64, 64))
        address = address.ipv4_mapped
    return ipaddress.IPv4Network((int(address) >> 8 << 8, 24))


def network_of_host(host: str) -> IPNetwork | None:
    """The same for an address as the kernel spells it; None for what is none."""
    try:
        return network_of(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return None
