"""The last network map: kept in the state directory, and read as the members this node may plan with.

The gateway decides who takes part; this node still lets nobody have its own pod networks, its own key or a
network that no node may carry.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raven.control.messages import NetworkMap, decode_control_untrusted, encode
from raven.errors import PeerError, StateError
from raven.keys import PublicKey
from raven.registry import files
from raven.topology.model import Member, find_conflicts, parse_pod_networks_untrusted

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MAP_FILE = "network.json"  # a NetworkMap, as it came


def load(state_dir: Path, log: FilteringBoundLogger) -> NetworkMap | None:
    """The map an earlier run kept; None without one. A corrupt one is as good as none: another will come."""
    path = state_dir / MAP_FILE
    if not path.exists():
        return None
    try:
        message = decode_control_untrusted(files.read(path))
    except (StateError, PeerError) as error:
        log.warning("the kept network map cannot be used", file=str(path), why=str(error))
        return None
    if not isinstance(message, NetworkMap):
        log.warning("the kept network map cannot be used", file=str(path), why="it is another message")
        return None
    return message


def keep(state_dir: Path, network: NetworkMap, log: FilteringBoundLogger) -> None:
    """Writes the map, all or nothing; blocks for the disk. Failing is a warning: packets pass without it."""
    try:
        files.write(state_dir / MAP_FILE, encode(network))
    except StateError as error:
        log.warning("the network map is not kept", why=str(error))


def members(network: NetworkMap | None, me: Member, log: FilteringBoundLogger) -> list[Member]:
    """This node first, then the others in the order of the map; this node alone if the map leaves it out."""
    found = [me]
    listed = False
    for node in network.nodes if network is not None else ():
        try:
            member = Member(
                name=node.name,
                public_key=PublicKey.from_base64(node.public_key),
                endpoint=node.endpoint,
                pod_networks=parse_pod_networks_untrusted(node.pod_cidrs),
                hub=node.hub,
                probes=node.probes,
                superframes=tuple(node.superframes),
            )
        except (ValueError, PeerError) as error:
            log.warning("a node of the network map cannot be used", node=node.name, why=str(error))
            continue
        if member.public_key == me.public_key:
            listed = True
        else:
            found.append(member)
    if not listed:
        return [me]
    losers = find_conflicts(found)
    for loser, why in losers:
        log.warning("a node of the network map cannot be used", node=loser.name, why=why)
    return [member for member in found if all(member is not loser for loser, _ in losers)]


def starts(network: NetworkMap) -> list[tuple[str, int]]:
    """The hubs' keys, and how often their devices were started: other numbers mean lost keys."""
    return [(node.public_key, node.starts) for node in network.nodes if node.hub]
