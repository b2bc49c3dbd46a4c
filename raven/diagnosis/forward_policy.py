"""Whether the host's firewall drops what it should forward between pods and the packet lane.

Docker sets the policy of the FORWARD chain to drop, and other packets than its own then need a rule. Which
packets pass in the end, only the firewall itself knows; so what is found here is a hint, never a verdict.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Final, NamedTuple

from raven.diagnosis.finding import Finding

_ASK_MAX: Final = 5.0  # seconds; tens of thousands of rules take one
_TEXT_MAX: Final = 16 << 20  # bytes of one listing


class Dropping(NamedTuple):
    """A chain that drops whatever none of its rules lets through."""

    name: str  # as one would say it: "ip filter FORWARD"
    mentions: bool  # some rule of it names the interface


def forward_policy(interface: str) -> list[Finding]:
    """A note for each chain that drops what is forwarded by default and has no rule for `interface`."""
    if shutil.which("nft"):
        chains = _from_nft(interface)
    elif shutil.which("iptables"):
        chains = [chain for tool in ("iptables", "ip6tables") for chain in _from_iptables(tool, interface)]
    else:
        return []
    return [
        Finding(
            hop="forwarding",
            result="note",
            about=chain.name,
            said=f"it drops what no rule accepts, and none of its rules names {interface}",
            next=f"if pods hear nothing: iptables -I FORWARD -i {interface} -j ACCEPT, and the same with -o",
        )
        for chain in chains
        if not chain.mentions
    ]


def parse_nft_untrusted(chains: str) -> list[tuple[str, str, str]]:
    """Family, table and name of the forward chains with policy drop in `nft -j list chains`."""
    try:
        entries = json.loads(chains)["nftables"]
        found = [entry["chain"] for entry in entries if "chain" in entry]
        return [
            (str(chain["family"]), str(chain["table"]), str(chain["name"]))
            for chain in found
            if chain.get("hook") == "forward" and chain.get("policy") == "drop"
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _from_nft(interface: str) -> list[Dropping]:
    found = []
    for family, table, name in parse_nft_untrusted(_listing("nft", "-j", "list", "chains")):
        rules = _listing("nft", "list", "chain", family, table, name)
        found.append(Dropping(f"{family} {table} {name}", f'"{interface}"' in rules))
    return found


def _from_iptables(tool: str, interface: str) -> list[Dropping]:
    rules = _listing(tool, "-S", "FORWARD").splitlines()
    if "-P FORWARD DROP" not in rules:
        return []
    return [Dropping(f"{tool} FORWARD", any(f" {interface} " in f"{rule} " for rule in rules))]


def _listing(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_ASK_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout[:_TEXT_MAX].decode("utf-8", "replace")
