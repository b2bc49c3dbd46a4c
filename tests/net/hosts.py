"""One host for a test: a fresh network namespace, and what `ip` says about it."""

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab import leftovers, wires
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until

# What a kernel counts or dates by itself, and so no sign of something left behind.
_RESTLESS = {"valid_life_time", "preferred_life_time", "stats", "stats64"}


@contextlib.contextmanager
def host(directory: Path) -> Iterator[Machine]:
    """A host with a loopback interface and nothing else; everything in it ends with the block."""
    machine = Machine("host", prefix=f"rvn{secrets.token_hex(2)}-", directory=directory)
    prefix = machine.namespace.removesuffix("host")
    wires.ip([f"netns add {machine.namespace}"])
    try:
        wires.ip(["link set lo up"], namespace=machine.namespace)
        yield machine
    finally:
        machine.stop_all()
        leftovers.remove(prefix)


def add_tun(machine: Machine, name: str) -> str:
    """A TUN link without a process: enough of a WireGuard interface for links, addresses and routes."""
    machine.run("ip", "tuntap", "add", "dev", name, "mode", "tun")
    return name


def dump(machine: Machine) -> dict[str, Any]:
    """Links, addresses, routes and rules of the host as `ip -j` tells them, once no address is tentative."""
    wait_until(
        lambda: not machine.run("ip", "-6", "addr", "show", "tentative").out,
        what="duplicate address detection",
        seconds=10,
    )
    asked = {
        "link": ["link"],
        "addr": ["addr"],
        "route4": ["-4", "route", "show", "table", "all"],
        "route6": ["-6", "route", "show", "table", "all"],
        "rule4": ["-4", "rule"],
        "rule6": ["-6", "rule"],
    }
    return {
        name: _steady(json.loads(machine.run("ip", "-j", *words).out or "[]"))
        for name, words in asked.items()
    }


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(inner) for key, inner in value.items() if key not in _RESTLESS}
    if isinstance(value, list):
        return [_steady(inner) for inner in value]
    return value
