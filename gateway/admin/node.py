"""Listing and removing nodes, and what pods they may carry, for `raven-gateway node`.

Works on the registry in the state directory, like `gateway.admin.token`. A gateway that runs notices a
removal by itself (`gateway.revocation`).
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.admin.opening import opened
from gateway.admin.token import checked_pod_cidrs
from raven.errors import RefusedError
from raven.registry.follower_state import check_leads
from raven.registry.interface import AuditRecord


class NodeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A node as `raven-gateway node list` shows it; times are Unix seconds."""

    name: str
    created: float
    last_seen: float | None
    software: str
    pod_cidrs: list[str]
    pod_allow: list[str]
    certificate_serial: str
    certificate_expires: float | None  # None: its record was pruned


def list_nodes(directory: Path, *, now: float) -> list[NodeEntry]:
    """Every node that joined, by name; StateError when there is no gateway's state."""
    with opened(directory, now=now) as registry:
        expiries = registry.expiries()
        return [
            NodeEntry(
                name=record.name,
                created=record.created,
                last_seen=record.last_seen,
                software=record.software,
                pod_cidrs=list(record.pod_cidrs),
                pod_allow=list(record.pod_allow),
                certificate_serial=record.certificate_serial,
                certificate_expires=expiries.get(record.certificate_serial),
            )
            for record in registry.nodes()
        ]


def allow_pods(directory: Path, name: str, cidrs: Sequence[str], *, now: float) -> list[str]:
    """The ranges in which the node may claim pod networks from now on, in place of those before.

    RefusedError "node-unknown", ConfigError for a range that no node may carry.
    """
    checked = checked_pod_cidrs(cidrs)
    with opened(directory, now=now) as registry:
        if not registry.allow_pods(name, checked):
            raise _unknown(name)
        registry.append_audit([_audit("pods-allowed", name, now, " ".join(checked))])
    return list(checked)


def remove_node(directory: Path, name: str, *, now: float) -> None:
    """Forgets the node and revokes its certificates; RefusedError "node-unknown" when it is not there."""
    check_leads(directory, now=now)
    with opened(directory, now=now) as registry:
        if not registry.remove_node(name, now=now):
            raise _unknown(name)
        registry.append_audit([_audit("node-removed", name, now)])


def _unknown(name: str) -> RefusedError:
    return RefusedError("node-unknown", f"there is no node {name}; `raven-gateway node list` shows all")


def _audit(event: str, name: str, now: float, detail: str = "") -> AuditRecord:
    return AuditRecord(
        time=now, event=event, node=name, asker="local", target="", verdict="allowed", detail=detail
    )
