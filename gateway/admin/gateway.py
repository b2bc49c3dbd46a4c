"""Listing and removing gateways, for `raven-gateway gateway`; works like `gateway.admin.node`."""

from pathlib import Path

import msgspec

from gateway.admin.opening import opened
from raven.errors import RefusedError
from raven.registry.follower_state import check_leads
from raven.registry.interface import AuditRecord


class GatewayEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway as `raven-gateway gateway list` shows it; times are Unix seconds."""

    name: str
    address: str  # where agents dial it
    created: float


def list_gateways(directory: Path, *, now: float) -> list[GatewayEntry]:
    """Every gateway, in the order they came; StateError when there is no gateway's state."""
    with opened(directory, now=now) as registry:
        return [
            GatewayEntry(name=one.name, address=one.address, created=one.created)
            for one in registry.known_gateways().gateways
        ]


def remove_gateway(directory: Path, name: str, *, now: float) -> None:
    """Agents leave it, and it may not follow any more. RefusedError "gateway-unknown"."""
    check_leads(directory, now=now)
    with opened(directory, now=now) as registry:
        known = {one.name: one for one in registry.known_gateways().gateways}
        if name not in known:
            raise RefusedError(
                "gateway-unknown", f"there is no gateway {name}; `raven-gateway gateway list` shows all"
            )
        # Even that of the gateway with the CA, which may have had another: at its start it records its own.
        registry.remove_gateway(name, now=now)
        registry.append_audit(
            [
                AuditRecord(
                    time=now, event="gateway-removed", node=name, asker="local", target="", verdict="allowed"
                )
            ]
        )
