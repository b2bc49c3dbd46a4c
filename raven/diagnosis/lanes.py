"""What a daemon's snapshot says about its lanes, as findings.

Pure: the daemon has judged its states by the age of their evidence already.
"""

from __future__ import annotations

from typing import Final

from raven.diagnosis.finding import Finding, Hop, Result
from raven.spans import age
from raven.status import AgentSnapshot, GatewaySnapshot, Lane, LaneState, NodeStatus, UplinkStatus

_RESULT: Final[dict[LaneState, Result]] = {
    "up": "ok",
    "off": "note",
    "starting": "note",
    "reconnecting": "note",
    "stale": "broken",
    "down": "broken",
}


_SHOWN_MAX: Final = 10  # nodes that are well and have a line of their own; of more, only their number


def has_failed(lane: Lane) -> bool:
    """Whether it was tried and does not work, which is more than not working yet."""
    return _RESULT[lane.state] == "broken"


def _said(lane: Lane) -> str:
    """State, evidence, and the sentence there is: `up 0.4 ms, proved 3 s ago`."""
    text: str = lane.state
    if lane.state == "up" and lane.rtt_ms is not None:
        text += f" {lane.rtt_ms:.1f} ms"
    if lane.evidence_age_s is not None:
        text += f", last proved {age(lane.evidence_age_s)} ago"
    elif lane.state != "off":
        text += ", never proved"
    return f"{text}: {lane.detail}" if lane.detail else text


def no_daemon(unit: str, absence: str) -> Finding:
    """Why no daemon tells anything; not being allowed to ask says nothing about it."""
    if "ermission" in absence or "not permitted" in absence:
        step = "run the same command with sudo, or join the group that --socket-group names"
        return Finding(hop="daemon", result="unknown", about=unit, said=absence, next=step)
    verb = "restart" if "no answer" in absence else "start"
    step = f"`systemctl {verb} {unit}`; if it ends again, `journalctl -u {unit} -n 50`"
    return Finding(hop="daemon", result="broken", about=unit, said=absence, next=step)


def tunnels(of: AgentSnapshot) -> list[Finding]:
    """One finding for each gateway of the agent."""
    return [_uplink(uplink, of) for uplink in of.uplinks]


def _uplink(uplink: UplinkStatus, of: AgentSnapshot) -> Finding:
    result = _RESULT[uplink.lane.state]
    if uplink.lane.state == "starting" and uplink.attempts > 1:
        result = "broken"  # it has been starting for a while
    step = ""
    if result == "broken":
        step = f"`journalctl -u raven-agent -n 50` here, and the gateway's log for node {of.node}"
        for word, better in _TUNNEL_STEPS.items():
            if word in uplink.lane.detail:
                step = better
    about = f"{uplink.name} {uplink.gateway}".strip()
    return Finding(hop="tunnel", result=result, about=about, said=_said(uplink.lane), next=step)


# By what the agent's own sentence holds; anything else goes to the logs.
_TUNNEL_STEPS: Final = {
    "already has a tunnel": "two machines use this identity: join one of them under another name",
    "joined again with another certificate": "another machine has this node's name now: join here under"
    " another one, or take it back with `raven-agent join --force`",
    "has renewed this certificate": "the state directory is older than its last renewal (a restored backup):"
    " `raven-agent join --force` with a token made for this node",
    "is not registered here": "the gateway removed this node: `raven-agent join --force` with a new token",
    "expired on": "`raven-gateway token create --node NAME` there, then `raven-agent join --force` here",
}


def nodes(of: GatewaySnapshot, *, only: str = "") -> list[Finding]:
    """The stream lane of each node; with `only`, the others are no more than noted."""
    findings = []
    for node in of.nodes:
        result = _RESULT[node.stream.state]
        if result == "broken" and only and node.name != only:
            result = "note"
        step = "" if result in ("ok", "note") else _node_step(node)
        findings.append(
            Finding(hop="node", result=result, about=node.name, said=_said(node.stream), next=step)
        )
    findings = _few(findings, only)
    if only and not any(node.name == only for node in of.nodes):
        known = ", ".join(node.name for node in of.nodes[:10]) or "none"
        findings.append(
            Finding(
                hop="node",
                result="broken",
                about=only,
                said=f"no node of that name has joined this gateway; joined: {known}",
                next="compare the name with `ravenctl nodes`; a host behind a node is HOST.via.NODE:PORT",
            )
        )
    return findings


def _node_step(node: NodeStatus) -> str:
    if node.last_seen_s is None:
        return "start raven-agent on that node, then `ravenctl doctor` there"
    return "on that node: is it powered, does it have a network? then `ravenctl doctor` there"


def packets(of: AgentSnapshot | GatewaySnapshot) -> Finding:
    """The daemon's own device, and the way through it."""
    lane = of.packets
    result = _RESULT[lane.state]
    step = "" if result != "broken" else "the findings above about tun, rights, device and udp tell more"
    return Finding(hop="packets", result=result, said=_said(lane), next=step)


def node_packets(of: GatewaySnapshot, *, only: str = "") -> list[Finding]:
    """The packet lane to each node whose stream lane is up; the others have a finding already."""
    findings = []
    for node in of.nodes:
        if not node.connected:
            continue
        result = _RESULT[node.packets.state]
        if result == "broken" and only and node.name != only:
            result = "note"
        step = "" if result != "broken" else "`ravenctl doctor` on that node; it knows its side of UDP"
        findings.append(
            Finding(hop="packets", result=result, about=node.name, said=_said(node.packets), next=step)
        )
    return _few(findings, only)


def _few(findings: list[Finding], only: str) -> list[Finding]:
    """The same, but those that are well in one line where they are many."""
    well = [finding for finding in findings if finding.result == "ok" and finding.about != only]
    if len(well) <= _SHOWN_MAX:
        return findings
    said = f"{len(well)} nodes are up, each on fresh evidence"
    return [Finding(hop=well[0].hop, result="ok", said=said), *(f for f in findings if f not in well)]


def problems(of: AgentSnapshot | GatewaySnapshot) -> list[Finding]:
    """What the daemon itself wants its operator to read."""
    findings = []
    for problem in of.problems:
        hop: Hop = "packets" if problem.startswith("packets: ") else "daemon"
        findings.append(Finding(hop=hop, result="note", said=problem.removeprefix("packets: ")))
    if of.draining:
        findings.append(Finding(hop="daemon", result="note", said="it is shutting down"))
    return findings
