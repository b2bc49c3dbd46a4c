"""`ravenctl netcheck HOST:P`: what this network lets through towards a gateway; needs no daemon, no state."""

from __future__ import annotations

import os
from functools import partial

import trio

from raven.cli import findings
from raven.cli.client import fail
from raven.config import Address
from raven.diagnosis import network
from raven.errors import ConfigError
from raven.net.proxy import ways_by


def netcheck(gateway: Address, *, wg_port: int, proxy: str | None, json: bool) -> int:
    """Looks, prints and judges; the exit code: 0 all well, 1 something broken, 2 could not run."""
    try:
        ways = ways_by(proxy, os.environ)
    except ConfigError as error:
        fail(str(error))
    found = trio.run(partial(network.examine, gateway, wg_port=wg_port, environment=os.environ, ways=ways))
    return findings.show(found, json=json)
