"""Ends the tunnels of nodes that lost their right to one, within a second of its being taken.

The commands that remove a node or replace its certificate work on the registry, maybe in another process, and
tell nobody. So the gateway asks the registry for its revision twice a second: that needs no socket, no
permission and no gateway that runs at that moment, and cannot be missed. Asking takes 10 µs; only a changed
revision is worth a look at every tunnel.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from gateway.network import GatewayNetwork
from gateway.tunnels import NodeTunnel, TunnelTable
from raven import log
from raven.errors import RefusedError, StateError
from raven.registry.interface import Registry

INTERVAL = 0.5  # seconds
PACKETS_INTERVAL = 60.0  # seconds between two looks for members of the packet lane whose certificates ended


async def cut_withdrawn(
    registry: Registry,
    table: TunnelTable,
    network: GatewayNetwork,
    *,
    also: Callable[[], object] = lambda: None,
) -> None:
    """Until cancelled. A registry that cannot be read takes nobody's tunnel; it is logged once.

    `also` is called whenever a right may have been taken back.
    """
    logger = log.get("agents")
    seen: int | None = None
    looked = -PACKETS_INTERVAL
    told = ""
    while True:
        for live in _expired(table, now=time.time()):
            logger.warning("cut off", node=live.node, reason="certificate-expired")
        try:
            revision, now = registry.revision(), trio.current_time()
            if revision != seen or now >= looked + PACKETS_INTERVAL:
                network.keep_only(registry.entitled(now=time.time()))
                looked = now
            if revision != seen:
                for node, error in _withdrawn(registry, table):
                    logger.warning("cut off", node=node, reason=error.reason, why=str(error))
                also()
                seen = revision
            told = ""
        except StateError as error:
            if str(error) != told:
                told = str(error)
                logger.error("registry", why=told)
        await trio.sleep(INTERVAL)


def _expired(table: TunnelTable, *, now: float) -> list[NodeTunnel]:
    """Ends the tunnels whose certificates have ended; each node may come back to renew."""
    expired = [live for live in table.connected() if now > live.expires]
    for live in expired:
        live.tunnel.abort("certificate-expired", f"the certificate of node {live.node} has expired")
    return expired


def _withdrawn(registry: Registry, table: TunnelTable) -> list[tuple[str, RefusedError]]:
    """Ends the tunnels nobody has a right to any more; whose, and why."""
    cut = []
    for live in table.connected():
        try:
            registry.check_certificate(node=live.node, serial=live.serial, connected=True)
        except RefusedError as error:
            live.tunnel.abort(error.reason, str(error))
            cut.append((live.node, error))
    return cut
