"""`ravenctl status`: the whole picture of one daemon, gateway or agent."""

from __future__ import annotations

from rich.text import Text

from raven.cli import nodes, render
from raven.cli.client import EXIT_DOWN
from raven.spans import age
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
        down = any(render.is_down(other.lane) for other in of.gateways)
        down = down or render.is_down(of.packets) or any(nodes.troubled(node) for node in of.nodes)
    else:
        down = render.is_down(of.packets) or any(render.is_down(uplink.lane) for uplink in of.uplinks)
    return EXIT_DOWN if down else 0


def _print_gateway(of: GatewaySnapshot) -> None:
    _print_title("gateway", of.name, of)
    facts: list[list[str | Text]] = [[what, address] for what, address in of.listeners.items()]
    facts.append(["agents dial", of.advertise])
    facts.append(["packet lane", _packets(of)])
    facts += _offloads(of)
    facts += [
        [f"gateway {other.name}", render.lane(other.lane).append(f" at {other.address}")]
        for other in of.gateways
    ]
    render.print_table(["", ""], facts)
    for other in of.gateways:
        if other.lane.detail and render.is_down(other.lane):
            render.say(f"gateway {other.name}: {other.lane.detail}")
    render.say()
    if of.nodes:
        nodes.print_nodes(of.nodes)
    else:
        render.say(nodes.NOBODY)
    _print_refused("connections", of.refused)
    _print_problems(of)


def _print_agent(of: AgentSnapshot) -> None:
    _print_title("agent of node", of.node, of)
    facts: list[list[str | Text]] = [
        ["packet lane", _packets(of)],
        *_offloads(of),
        ["pod networks", " ".join(of.pod_cidrs) or "none"],
        ["may be reached", " ".join(of.allow) or "nothing"],
    ]
    render.print_table(["", ""], facts)
    render.say()
    render.print_table(
        ["GATEWAY", "STREAM LANE", "STREAMS", "RECEIVED", "SENT"],
        (
            [
                f"{uplink.name} {uplink.gateway}{f' via {uplink.proxy}' if uplink.proxy else ''}".strip(),
                render.lane(uplink.lane),
                str(uplink.streams),
                render.size(uplink.lane.bytes_in),
                render.size(uplink.lane.bytes_out),
            ]
            for uplink in of.uplinks
        ),
        whole=(1, 2, 3, 4),
    )
    for uplink in of.uplinks:
        if uplink.lane.state != "up":
            render.say(uplink.lane.detail)
    _print_refused("streams", of.refused)
    _print_problems(of)


def _print_title(role: str, name: str, of: GatewaySnapshot | AgentSnapshot) -> None:
    title = Text(f"{role} ")
    title.append(name, style="bold")
    title.append(f", cluster {of.cluster}, raven {of.software}, up {age(of.uptime_s)}")
    if of.draining:
        title.append(", draining", style="yellow")
    render.say(title)


def _packets(of: GatewaySnapshot | AgentSnapshot) -> Text:
    line = render.lane(of.packets)
    if of.packets.mtu is not None:
        line.append(f", packets of {of.packets.mtu} bytes")
    if of.packets.detail:
        line.append(f": {of.packets.detail}")
    return line


def _offloads(of: GatewaySnapshot | AgentSnapshot) -> list[list[str | Text]]:
    """A line about what the kernel does not do for the device; none for one that does not tell."""
    off = [f"{name} off: {why}" for name, why in of.offloads.items() if why]
    return [["offloads", "; ".join(off) or "all on"]] if of.offloads else []


def _print_refused(what: str, refused: dict[str, int]) -> None:
    if refused:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items()))
        render.say(f"{what} turned away since the start: {counts}")


def _print_problems(of: GatewaySnapshot | AgentSnapshot) -> None:
    for problem in of.problems:
        if problem.removeprefix("packets: ") not in of.packets.detail:  # which stands further up
            render.say(f"problem: {problem}", style="yellow")
