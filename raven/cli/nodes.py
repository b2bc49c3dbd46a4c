"""`ravenctl nodes`: one line a node, or one JSON object a node."""

from __future__ import annotations

from raven.cli import render
from raven.cli.client import fail
from raven.status import AgentSnapshot, GatewaySnapshot, NodeStatus

NOBODY = "No node has joined yet; `raven-gateway token create` makes a token to join with."


def show(of: GatewaySnapshot | AgentSnapshot, *, json: bool) -> int:
    """Prints the nodes; the exit code is 0 for a list of any content, as `status` judges."""
    if isinstance(of, AgentSnapshot):
        fail(f"this is the agent of node {of.node}, which knows no other nodes; ask a gateway, with --socket")
    if json:
        render.print_json(of.nodes)
    elif of.nodes:
        print_nodes(of.nodes)
    else:
        render.say(NOBODY)
    return 0


def print_nodes(nodes: list[NodeStatus]) -> None:
    """The table, and below it why something in it is not up."""
    render.print_table(
        ["NODE", "STREAM LANE", "PACKET LANE", "POD NETWORKS"],
        (
            [node.name, render.lane(node.stream), render.lane(node.packets), " ".join(node.pod_cidrs)]
            for node in nodes
        ),
        whole=(1, 2),
    )
    for node in nodes:
        if node.stream.state != "up":
            render.say(f"{node.name}: no streams: {node.stream.detail}")
        if node.packets.state != "up" and node.packets.detail != node.stream.detail:
            render.say(f"{node.name}: no packets: {node.packets.detail}")


def troubled(node: NodeStatus) -> bool:
    return render.is_down(node.stream) or render.is_down(node.packets)
