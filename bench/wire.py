"""What idleness costs a metered link: the bytes that the kernel counts at one end of a cable."""

import json
from collections.abc import Callable
from time import monotonic

from tests.lab.machine import Machine

_DAY = 86_400.0  # seconds
_ETHERNET = 14  # bytes that the kernel counts with each packet, and that no uplink bills


def idle_wire(machine: Machine, link: str, *, agents: int = 1) -> Callable[[], float]:
    """Gives MB a day and agent, at the pace between this call and that of what it returns.

    Whole IP packets, both directions, and whatever else is on that cable (ARP, neighbour discovery).
    """
    began, before = monotonic(), _link_bytes(machine, link)

    def later() -> float:
        moved = _link_bytes(machine, link) - before
        return moved / agents / (monotonic() - began) * _DAY / 1e6

    return later


def _link_bytes(machine: Machine, link: str) -> int:
    (said,) = json.loads(machine.run("ip", "-j", "-s", "link", "show", link).out)
    ways = (said["stats64"]["rx"], said["stats64"]["tx"])
    return sum(int(way["bytes"]) - _ETHERNET * int(way["packets"]) for way in ways)
