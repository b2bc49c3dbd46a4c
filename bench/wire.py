"""What idleness costs a metered link: the bytes of the IP packets that pass one end of a cable."""

import json
from collections.abc import Callable
from time import monotonic

from tests.lab.machine import Machine

_DAY = 86_400.0  # seconds
_RULES = """
table inet idle {{
    counter passed {{ }}
    chain through {{
        type filter hook forward priority filter;
        oifname "{link}" counter name passed
        iifname "{link}" counter name passed
    }}
    chain arriving {{
        type filter hook input priority filter;
        ip6 daddr {{ fe80::/10, ff02::/16 }} accept
        iifname "{link}" counter name passed
    }}
    chain leaving {{
        type filter hook output priority filter;
        ip6 daddr {{ fe80::/10, ff02::/16 }} accept
        oifname "{link}" counter name passed
    }}
}}
"""


def idle_wire(machine: Machine, link: str, *, agents: int = 1) -> Callable[[], float]:
    """Gives MB a day and agent, at the pace between this call and that of what it returns.

    Whole IP packets, both directions. What neighbours on an Ethernet say to find each other (ARP, and IPv6 of
    the link's scope) is not counted: an uplink that is billed carries none of it. To be called once a link.
    """
    machine.run("nft", "-f", "-", text=_RULES.format(link=link))
    began, before = monotonic(), _passed(machine)

    def later() -> float:
        moved = _passed(machine) - before
        return moved / agents / (monotonic() - began) * _DAY / 1e6

    return later


def _passed(machine: Machine) -> int:
    said = json.loads(machine.run("nft", "-j", "list", "counter", "inet", "idle", "passed").out)
    (counter,) = [one["counter"] for one in said["nftables"] if "counter" in one]
    return int(counter["bytes"])
