"""The way from here to the gateways: each one met, and what was seen put into findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from raven.config import Address
from raven.diagnosis import judge
from raven.diagnosis.contact import meet
from raven.diagnosis.evidence import Contact
from raven.diagnosis.finding import Finding
from raven.net.proxy import DIRECT, Ways
from raven.net.tls import ca_label


async def to(
    gateways: Sequence[Address],
    *,
    ca: x509.Certificate | None = None,
    ways: Callable[[Address], Ways] = lambda gateway: DIRECT,
) -> list[Contact]:
    """The contacts with `gateways`, made at once, in their order, by a host that trusts `ca` if any."""
    known = "" if ca is None else ca_label(ca.public_bytes(Encoding.PEM).decode("ascii"))
    contacts: dict[Address, Contact] = {}

    async def one(gateway: Address) -> None:
        contacts[gateway] = await meet(gateway, known=known, ways=ways(gateway))

    async with trio.open_nursery() as nursery:
        for gateway in dict.fromkeys(gateways):
            nursery.start_soon(one, gateway)
    return [contacts[gateway] for gateway in dict.fromkeys(gateways)]


def findings(
    contacts: Sequence[Contact],
    *,
    ca: x509.Certificate | None,
    cluster: str,
    password_known: bool = True,
) -> list[Finding]:
    """What was found on the ways, judged with the CA and cluster that this host trusts, if any.

    `password_known` is off where the proxy is the daemon's, which does not tell its password.
    """
    found: list[Finding] = []
    for contact in contacts:
        if contact.proxied is not None:
            found.append(judge.proxy(contact.proxied, contact.name, password_known=password_known))
        found += [*judge.name(contact), *judge.tcp(contact)]
        there = gateway_time([contact])
        found += judge.tls(contact, ca=ca, cluster=cluster, now=there)
        if contact.shown is not None:
            found.append(judge.clock(contact.shown, contact.name))
    return found


def gateway_time(contacts: Sequence[Contact]) -> float:
    """Unix seconds by the first gateway that told them, else by this machine's clock."""
    told = [contact.shown.ahead for contact in contacts if contact.shown is not None]
    return time.time() + (told[0] if told else 0.0)


def own_addresses(contacts: Sequence[Contact]) -> list[str]:
    """This machine's addresses on the ways to the gateways, loopback left out."""
    own = [attempt.source for contact in contacts for attempt in contact.connected]
    own += [contact.proxied.source for contact in contacts if contact.proxied is not None]
    return [address for address in dict.fromkeys(own) if address not in ("", "127.0.0.1", "::1")]


def noted(found: Sequence[Finding]) -> list[Finding]:
    """The same findings where nothing hangs on them: what is broken is only worth reading."""
    return [
        msgspec.structs.replace(finding, result="note") if finding.result == "broken" else finding
        for finding in found
    ]
