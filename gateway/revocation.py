"""Ends the tunnels of nodes that lost their right to one, within a second of its being taken.

The commands that remove a node or replace its certificate work on the registry, maybe in another process, and
tell nobody. So the gateway asks the registry for its revision twice a second: that needs no socket, no
permission and no gateway that runs at that moment, and cannot be missed. Asking takes 10 µs; only a changed
revision is worth a look at every tunnel.
"""

from __future__ import annotations

import trio

from gateway.network import GatewayNetwork
from gateway.tunnels import TunnelTable
from raven import log
from raven.errors import RefusedError, StateError
from raven.registry.interface import Registry

INTERVAL = 0.5  # seconds


async def cut_withdrawn(registry: Registry, table: TunnelTable, network: GatewayNetwork) -> None:
    """Until cancelled. A registry that cannot be read takes nobody's tunnel; it is logged once."""
    logger = log.get("agents")
    seen: int | None = None
    told = ""
    while True:
        try:
            if (revision := registry.revision()) != seen:
                for node, error in _withdrawn(registry, table, network):
                    logger.warning("cut off", node=node, reason=error.reason, why=str(error))
                seen, told = revision, ""
        except StateError as error:
            if str(error) != told:
                told = str(error)
                logger.error("registry", why=told)
        await trio.sleep(INTERVAL)


def _withdrawn(
    registry: Registry, table: TunnelTable, network: GatewayNetwork
) -> list[tuple[str, RefusedError]]:
    """Takes away what nobody has a right to any more; whose tunnels, and why."""
    network.keep_only({record.name for record in registry.nodes()})
    cut = []
    for live in table.connected():
        try:
            registry.check_certificate(node=live.node, serial=live.serial, connected=True)
        except RefusedError as error:
            live.tunnel.abort(error.reason, str(error))
            cut.append((live.node, error))
    return cut
