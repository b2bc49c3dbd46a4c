"""Between plans and devices: what a device holds as a plan, and a plan's change as the device's.

Plain functions over the values of `raven.topology.plan` and `raven.wg.configuration`, which do not know of
each other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import replace

from raven.keys import PublicKey
from raven.topology.model import IPNetwork
from raven.topology.plan import PeerChange, PeerPlan, Plan
from raven.wg import configuration as wg
from raven.wg.endpoint import Endpoint


def observed(
    state: wg.DeviceState, plan: Plan, prescribed: Mapping[PublicKey, str], status: wg.Status | None = None
) -> Plan:
    """The device's peers as a plan; with the host's part as planned, which `HostInterface` looks after.

    An endpoint counts as what was last prescribed, wherever the peer has roamed since. On a device that an
    earlier run configured nothing is known of that: there it is what it is, where the plan has one. `status`
    is None for a device that knows nothing of our own, whatever is planned.
    """
    planned = {peer.public_key: peer for peer in plan.peers}
    peers = []
    for peer in state.peers:
        prescribes = peer.public_key in planned and planned[peer.public_key].endpoint
        actual = str(peer.endpoint) if prescribes and peer.endpoint is not None else ""
        peers.append(
            PeerPlan(
                public_key=peer.public_key,
                endpoint=prescribed.get(peer.public_key, actual),
                keepalive=peer.keepalive,
                allowed_ips=frozenset(peer.allowed_ips),
                probes=_probes(peer.public_key, planned, status),
                superframes=_superframes(peer.public_key, planned, status),
            )
        )
    return replace(plan, peers=frozenset(peers))


def _probes(key: PublicKey, planned: Mapping[PublicKey, PeerPlan], status: wg.Status | None) -> bool:
    if status is None:
        return key in planned and planned[key].probes
    return key in status.peers and status.peers[key].probes


def _superframes(key: PublicKey, planned: Mapping[PublicKey, PeerPlan], status: wg.Status | None) -> str:
    if status is None:
        return planned[key].superframes if key in planned else ""
    cipher = status.peers[key].superframes if key in status.peers else wg.NO_SUPERFRAMES
    return "" if cipher == wg.NO_SUPERFRAMES else cipher


def peer_change(change: PeerChange, before: PeerPlan | None, *, raven: bool = False) -> wg.PeerChange:
    """`raven`: the device understands what is our own."""
    had = before.allowed_ips if before is not None else frozenset()
    allowed = had if change.allowed_ips is None else change.allowed_ips
    replacing = not had <= allowed  # otherwise only what is new is added, and nothing stops for a moment
    return wg.PeerChange(
        public_key=change.public_key,
        endpoint=parse_endpoint(change.endpoint or ""),
        keepalive=change.keepalive,
        replace_allowed_ips=replacing,
        allowed_ips=_in_order(allowed if replacing else allowed - had),
        probes=change.probes if raven else None,
        superframes=(change.superframes or wg.NO_SUPERFRAMES)
        if raven and change.superframes is not None
        else None,
    )


def _in_order(networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    return sorted(networks, key=lambda network: (network.version, network))


def parse_endpoint(text: str) -> Endpoint | None:
    """The endpoint in `1.2.3.4:5` or `[v6]:5`; None for anything else, such as a name not resolved yet."""
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        return None
    return Endpoint(str(address), int(port))
