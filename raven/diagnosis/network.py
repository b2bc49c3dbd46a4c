"""What the network of an edge lets through towards a gateway, before anything is installed there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Final

import trio

from raven.config import Address
from raven.diagnosis import judge, way
from raven.diagnosis.contact import ADDRESSES_MAX, is_numeric, look_up, meet
from raven.diagnosis.datagrams import Heard, probe
from raven.diagnosis.evidence import Contact, Shown
from raven.diagnosis.finding import Finding
from raven.diagnosis.packet_host import OVERHEAD
from raven.errors import PeerError
from raven.net.proxy import DIRECT, Ways
from raven.pki.certificate import check_leaf_untrusted, read_ca_untrusted
from raven.pki.identity import Role

PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
DEVICE_MTU: Final = 1420  # bytes; what raven-wg gives its device
# Up to the last @, as a password may have any of the characters that end one elsewhere.
_WITH_PASSWORD = re.compile(r"^(\w+://)?.*@", re.DOTALL)


async def examine(
    gateway: Address, *, wg_port: int, environment: Mapping[str, str], ways: Ways = DIRECT
) -> list[Finding]:
    """Everything between here and `gateway`, dialled as an agent would; `wg_port` is its UDP port."""
    contact = await meet(gateway, ways=ways)
    found = way.findings([contact], ca=None, cluster="")
    found += proxies(environment, contact)
    found += families(contact)
    if contact.shown is not None:
        found += translation(contact.shown)
        if (late := too_late(contact.shown)) is not None:
            found.append(late)
    heard: list[Heard] = []

    async def one(address: str) -> None:
        heard.append(await probe(address, wg_port))

    async with trio.open_nursery() as nursery:
        for address in await _addresses(contact):
            nursery.start_soon(one, address)
    if not heard and contact.proxied is not None:
        said = f"{contact.host} cannot be looked up here, and UDP takes no HTTP proxy; streams do without"
        found.append(Finding(hop="udp", result="unknown", about=contact.name, said=said))
    for each in sorted(heard, key=lambda each: each.address):
        found.append(datagrams(each))
        found += path_mtu(each)
    return found


async def _addresses(contact: Contact) -> list[str]:
    """Where datagrams for the gateway go."""
    if contact.proxied is None:
        return [attempt.address.rpartition(":")[0].strip("[]") for attempt in contact.attempts]
    if is_numeric(contact.host):
        return [contact.host]
    return [address for lookup in await look_up(contact.host) for address in lookup.addresses][:ADDRESSES_MAX]


def proxies(environment: Mapping[str, str], contact: Contact) -> list[Finding]:
    """Proxy variables that are set, passwords left out."""
    straight = contact.proxied is None
    found = []
    for name in PROXIES:
        value = environment.get(name) or environment.get(name.lower())
        if not value:
            continue
        said = "set to " + _WITH_PASSWORD.sub(r"\1...@", value)
        step = ""
        if straight and not contact.reached and name != "NO_PROXY":
            step = (
                f"--proxy off or NO_PROXY keeps {contact.name} from it: this check and an agent dial straight"
                if name == "HTTPS_PROXY"
                else "an agent heeds HTTPS_PROXY and --proxy only: give that proxy as --proxy"
            )
        found.append(Finding(hop="proxy", result="note", about=name, said=said, next=step))
    if not found and straight:
        return [Finding(hop="proxy", result="ok", said="no proxy variables are set")]
    return found


def translation(shown: Shown) -> list[Finding]:
    """What kind of NAT lies between, as one TCP connection shows it; empty where the gateway does not say."""
    if not shown.seen_as or not shown.source:
        return []
    here, here_port = _split(shown.source)
    there, there_port = _split(shown.seen_as)
    if here == there:
        said = f"none: the gateway sees this machine as {here}"
        return [Finding(hop="nat", result="ok", said=said)]
    ports = f"keeps ports ({here_port})" if here_port == there_port else f"makes {there_port} of {here_port}"
    said = (
        f"{here} becomes {there}, and the NAT {ports}; tunnels are dialled from here, so it is not in the"
        " way, and keepalives hold its mappings open"
    )
    return [Finding(hop="nat", result="ok", said=said)]


def _split(text: str) -> tuple[str, str]:
    """Address and port; an IPv4 address in IPv6 clothes, as a socket for both shows it, counts as IPv4."""
    host, _, port = text.rpartition(":")
    return host.strip("[]").removeprefix("::ffff:"), port


def families(contact: Contact) -> list[Finding]:
    """Whether each IP version leads to the gateway."""
    found = []
    for version in (4, 6):
        own = [each for each in contact.attempts if (each.address.count(":") > 1) == (version == 6)]
        if not own:
            continue
        good = any(each.seconds is not None for each in own)
        if not good and contact.connected:
            said = f"IPv{version} does not lead there, IPv{10 - version} does; that is enough"
            found.append(Finding(hop="ipv6" if version == 6 else "tcp", result="note", said=said))
    return found


def too_late(shown: Shown) -> Finding | None:
    """Joining judges the gateway's certificate by the later of both clocks."""
    try:
        ca = read_ca_untrusted(shown.ca_pem)
        leaf = check_leaf_untrusted(shown.leaf_der, ca, role=Role.GATEWAY, cluster=shown.cluster, now=None)
    except PeerError:
        return None  # found under tls
    now = time.time()
    if now <= leaf.not_after:
        return None
    if now + shown.ahead > leaf.not_after:
        return None  # the gateway's own fault, found under tls
    said = f"by this machine's clock ({judge.date(now)}) the gateway's certificate has expired"
    step = "set the clock: `timedatectl set-ntp true`; a join fails until then"
    return Finding(hop="certificate", result="broken", about="gateway", said=said, next=step)


def datagrams(heard: Heard) -> Finding:
    """UDP towards the packet lane's port. Streams do without, so nothing here is called broken."""
    about = str(Address(heard.address, heard.port))
    if heard.answered:
        said = "something answers that is not WireGuard"
        step = "compare the port with the gateway's --wg-listen, and give it with --wg-port"
        return Finding(hop="udp", result="note", about=about, said=said, next=step)
    if heard.refused:
        said = "refused: nobody listens on that UDP port, or a firewall rejects it; streams do without"
        step = "compare the port with the gateway's --wg-listen, and give it with --wg-port"
        return Finding(hop="udp", result="note", about=about, said=said, next=step)
    if heard.problem:
        said = f"cannot be sent: {heard.problem}; streams do without"
        step = "see the firewall (`nft list ruleset`) and the routes of this machine"
        return Finding(hop="udp", result="note", about=about, said=said, next=step)
    said = (
        "nothing objected. WireGuard does not answer strangers, so whether UDP passes cannot be known before"
        " this node has joined; then `ravenctl doctor` tells"
    )
    return Finding(hop="udp", result="unknown", about=about, said=said)


def path_mtu(heard: Heard) -> list[Finding]:
    """The path's MTU as far as routers tell it."""
    if heard.mtu is None or not heard.sent:
        return []
    room = heard.mtu - OVERHEAD[heard.family]
    said = (
        f"packets of {heard.mtu} bytes raised no objection; a router that drops silently would look the same"
    )
    if room >= DEVICE_MTU:
        return [Finding(hop="mtu", result="ok", about=heard.address, said=said)]
    said = (
        f"the path takes packets of {heard.mtu} bytes, {room} inside WireGuard; the device has {DEVICE_MTU}"
    )
    step = f"once it runs: ip link set raven0 mtu {room}; until then large packets go in fragments"
    return [Finding(hop="mtu", result="note", about=heard.address, said=said, next=step)]
