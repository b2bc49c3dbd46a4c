"""`ravenctl status`: the whole picture of one daemon, gateway or agent."""

from __future__ import annotations

from raven.cli import nodes, render
from raven.cli.client import EXIT_DOWN
from raven.status import AgentSnapshot, GatewaySnapshot


def show(of: GatewaySnapshot | AgentSnapshot, *, json: bool) -> int:
    """Prints the snapshot; the exit code."""
    if json:
        render.print_json(of)
    elif isinstance(of, GatewaySnapshot):
        _print_gateway(of)
    else:
        _print_agent(of)
    if isinstance(of, GatewaySnapshot):
        down = render.is_down(of.packets) or any(nodes.troubled(node) for node in of.nodes)
    else:
        down = render.is_down(of.packets) or any(render.is_down(uplink.lane) for uplink in of.uplinks)
    return EXIT_DOWN if down else 0


def _print_gateway(of: GatewaySnapshot) -> None:
    _print_title("gateway", of.name, of)
    rows = [[what, address] for what, address in of.listeners.items()]
    rows.append(["advertised", of.advertise])
    render.print_table(["", "ADDRESS"], rows)
    _print_packets(of)
    if of.nodes:
        nodes.print_nodes(of.nodes)
    else:
        _say(nodes.NOBODY)
    if of.refused:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(of.refused.items()))
        _say(f"turned away since the start: {counts}")
    _print_problems(of.problems)


def _print_agent(of: AgentSnapshot) -> None:
    _print_title("agent of node", of.node, of)
    render.print_table(
        ["GATEWAY", "STREAM LANE", "STREAMS", "IN / OUT"],
        (
            [
                f"{uplink.name} {uplink.gateway}".strip(),
                render.lane(uplink.lane),
                str(uplink.streams),
                f"{render.size(uplink.lane.bytes_in)} / {render.size(uplink.lane.bytes_out)}",
            ]
            for uplink in of.uplinks
        ),
    )
    for uplink in of.uplinks:
        if uplink.lane.detail and uplink.lane.state != "up":
            _say(f"{uplink.lane.state}: {uplink.lane.detail}")
    _print_packets(of)
    _say(f"pod networks: {' '.join(of.pod_cidrs) or 'none'}")
    _say(f"lets gateways reach: {' '.join(of.allow) or 'nothing'}")
    if of.refused:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(of.refused.items()))
        _say(f"streams turned away since the start: {counts}")
    _print_problems(of.problems)


def _print_title(role: str, name: str, of: GatewaySnapshot | AgentSnapshot) -> None:
    parts = [f"{role} [bold]{name}[/bold]", f"cluster {of.cluster}", f"raven {of.software}"]
    parts.append(f"up {render.age(of.uptime_s)}")
    if of.draining:
        parts.append("[yellow]draining[/yellow]")
    render.console().print(", ".join(parts))


def _print_packets(of: GatewaySnapshot | AgentSnapshot) -> None:
    line = render.lane(of.packets)
    if of.packets.detail:
        line.append(f": {of.packets.detail}")
    render.console().print("packet lane", line)


def _print_problems(problems: list[str]) -> None:
    for problem in problems:
        render.console().print(f"problem: {problem}", style="yellow", markup=False)


def _say(text: str) -> None:
    render.console().print(text, markup=False)
