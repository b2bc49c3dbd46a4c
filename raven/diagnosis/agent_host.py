"""What an agent's host can see: its own state, the way to each gateway, the tunnel, a target, its packets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raven.config import Address
from raven.diagnosis import judge, lanes, packet_host, target, way
from raven.diagnosis.finding import Finding
from raven.diagnosis.own_state import NEW_CERTIFICATE, OwnState, read_state
from raven.net.proxy import DIRECT, Proxy, Ways
from raven.spans import age
from raven.status import AgentSnapshot


async def examine(
    *,
    directory: Path | None,
    snapshot: AgentSnapshot | None,
    absence: str,
    gateways: Sequence[Address],
    wanted: str,
    interface: str,
    ways: Ways = DIRECT,
    by_option: bool = False,
) -> list[Finding]:
    """Everything; `directory` None where nobody joined, `absence` says why there is no `snapshot`.

    `gateways` replace those of the state, `wanted` is a target or "". RefusedError for one that is none.
    Gateways are dialled as the running agent does; by `ways` where there is none, or `by_option`.
    """
    state = read_state(directory, "agent") if directory is not None else None
    node = snapshot.node if snapshot is not None else state.agent.node if state and state.agent else ""
    asked = target.parse(wanted, node or "node") if wanted else None
    found = list(state.findings) if state is not None else []
    dialled, spoiled = _gateways(gateways, snapshot, state)
    told = snapshot if not by_option else None
    contacts = await way.to(
        dialled, ca=state.ca if state else None, ways=lambda gateway: _ways(gateway, ways, told)
    )
    found += spoiled
    found += way.findings(
        contacts,
        ca=state.ca if state else None,
        cluster=state.agent.cluster if state and state.agent else "",
        password_known=told is None,
    )
    if state is not None and state.leaf is not None:
        found.append(
            judge.certificate(
                state.leaf,
                now=way.gateway_time(contacts),
                about=str(state.directory / "node.crt"),
                rejoin=NEW_CERTIFICATE["agent"],
            )
        )
    if snapshot is not None:
        up = f"process {snapshot.pid}, up {age(snapshot.uptime_s)}, raven {snapshot.software}"
        found.append(Finding(hop="daemon", result="ok", about="raven-agent", said=up))
        found += [*lanes.tunnels(snapshot), *lanes.problems(snapshot)]
    elif state is not None:
        found.append(lanes.no_daemon("raven-agent", absence))
    if asked is not None:
        allow = snapshot.allow if snapshot is not None else None
        found += await target.on_node(asked, allow, own=way.own_addresses(contacts))
    return found + await _packets(snapshot, interface)


def _gateways(
    given: Sequence[Address], snapshot: AgentSnapshot | None, state: OwnState | None
) -> tuple[list[Address], list[Finding]]:
    """Whom the agent dials, and a finding for each that cannot be dialled at all."""
    if given:
        return list(given), []
    texts: list[str] = []
    if snapshot is not None:
        texts = [uplink.gateway for uplink in snapshot.uplinks]
    elif state is not None and state.agent is not None:
        texts = state.agent.gateways
    dialled, spoiled = [], []
    for text in texts:
        try:
            dialled.append(Address.parse(text))
        except ValueError as error:
            step = "correct --gateway, or join again"
            spoiled.append(Finding(hop="name", result="broken", about=text, said=str(error), next=step))
    return dialled, spoiled


def _ways(gateway: Address, ours: Ways, told: AgentSnapshot | None) -> Ways:
    """How the agent dials `gateway`, as far as it tells: its environment is not the one of this command."""
    known = [uplink.proxy for uplink in told.uplinks if uplink.gateway == str(gateway)] if told else []
    if not known:
        return ours
    if not known[0]:
        return DIRECT
    if ours.proxy is not None and str(ours.proxy) == known[0]:
        return Ways(ours.proxy)
    return Ways(Proxy.parse(known[0]))


async def _packets(snapshot: AgentSnapshot | None, interface: str) -> list[Finding]:
    if snapshot is None:
        # Whether this node wants packets is not known, so nothing here can be broken.
        return way.noted([packet_host.tun("note"), packet_host.rights(None, "note")])
    found = [lanes.packets(snapshot)]
    if snapshot.packets.state != "off":
        found += await packet_host.examine(
            interface=interface,
            process=snapshot.pid,
            failed=lanes.has_failed(snapshot.packets),
            pod_cidrs=snapshot.pod_cidrs,
            hub=False,
        )
    return found
