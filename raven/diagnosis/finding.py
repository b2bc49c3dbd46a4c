"""Findings, and the verdict over a list of them: the first broken hop, why, and what to try.

Pure: evidence comes from the modules beside this one, in any order; here it is put into the order in which a
request meets the hops, because what breaks first is the cause of what breaks after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

import msgspec

# In the order in which things depend on each other: what a host has, the way to the gateway, the tunnel, the
# target behind it, then the packet lane, which is not needed for any of the former.
Hop = Literal[
    "state",  # the state directory
    "certificate",  # the daemon's own, and the CA
    "registry",
    "proxy",  # an HTTP proxy on the way; variables of the environment in netcheck only
    "name",  # DNS
    "tcp",
    "nat",  # address translation on the way; only netcheck
    "tls",  # handshake, CA pin, identity of the other end
    "clock",
    "daemon",  # the process behind the status socket
    "listener",
    "tunnel",  # the stream lane to a gateway
    "node",  # the stream lane of a node, seen from its gateway
    "allow",
    "target",
    "tun",
    "rights",
    "device",
    "offloads",
    "ipv6",
    "forwarding",
    "udp",
    "mtu",
    "packets",  # the packet lane as the daemon sees it
]
HOPS: Final[tuple[Hop, ...]] = get_args(Hop)

Result = Literal[
    "ok",
    "note",  # worth reading; what was asked for works all the same
    "unknown",  # cannot be found out from here; `said` tells why
    "broken",
]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at one hop came to."""

    hop: Hop
    result: Result
    about: str = ""  # which of several: an address, a file, a node
    said: str  # a sentence
    next: str = ""  # a command or change to try; broken findings always have one


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What it all comes to. Exit codes: 0 all well, 1 something broken."""

    well: bool
    hop: Hop | None = None  # the first broken one
    about: str = ""
    why: str = ""
    next: str = ""
    broken: int = 0  # findings
    unknown: int = 0

    @property
    def exit_code(self) -> int:
        return 0 if self.well else 1


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By hop, and within a hop as they were found."""
    return sorted(findings, key=lambda finding: HOPS.index(finding.hop))


def decide(findings: Iterable[Finding]) -> Verdict:
    """The verdict over findings in any order; nothing found is nothing wrong."""
    ordered = in_order(findings)
    unknown = sum(finding.result == "unknown" for finding in ordered)
    broken = [finding for finding in ordered if finding.result == "broken"]
    if not broken:
        return Verdict(well=True, unknown=unknown)
    first = broken[0]
    return Verdict(
        well=False,
        hop=first.hop,
        about=first.about,
        why=first.said,
        next=first.next,
        broken=len(broken),
        unknown=unknown,
    )
