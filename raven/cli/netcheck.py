"""`ravenctl netcheck HOST:P`: what this network lets through towards a gateway; needs no daemon, no state."""

from __future__ import annotations

import os
from functools import partial

import trio

from raven.cli import findings
from raven.config import Address
from raven.diagnosis import network


def netcheck(gateway: Address, *, wg_port: int, json: bool) -> int:
    """Looks, prints and judges; the exit code."""
    found = trio.run(partial(network.examine, gateway, wg_port=wg_port, environment=os.environ))
    return findings.show(found, json=json)
