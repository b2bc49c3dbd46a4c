"""`raven-gateway node`: the nodes that have joined, and what pods they may carry."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gateway.commands.output import done, failing_in_one_line, listed, moment, output_option, state_dir_option


@click.group()
def node() -> None:
    """Nodes that have joined."""


@node.command("list")
@state_dir_option
@output_option
def list_nodes(state_dir: Path, output: str) -> None:
    """Show what the registry knows of each node; who is connected shows `ravenctl nodes`."""
    from gateway.admin import node as nodes

    with failing_in_one_line():
        entries = nodes.list_nodes(state_dir, now=time.time())
    listed(
        output,
        entries,
        ("NAME", "JOINED", "LAST SEEN", "CERTIFICATE UNTIL", "SOFTWARE"),
        lambda entry: (
            entry.name,
            moment(entry.created),
            moment(entry.last_seen),
            moment(entry.certificate_expires),
            entry.software or "-",
        ),
    )


@node.command()
@click.argument("name")
@state_dir_option
@output_option
def remove(name: str, state_dir: Path, output: str) -> None:
    """Forget a node and revoke its certificates; a running gateway cuts its tunnel within 2 seconds.

    The node comes back only by joining anew with a token; revoke the tokens it may still have.
    """
    from gateway.admin.node import remove_node

    with failing_in_one_line():
        remove_node(state_dir, name, now=time.time())
    done(output, {"name": name, "removed": True}, f"node {name} is removed")


@node.command()
@click.argument("name")
@click.option("--pod-cidr", multiple=True, metavar="CIDR", help="A range; none takes back what was allowed.")
@state_dir_option
@output_option
def allow(name: str, pod_cidr: tuple[str, ...], state_dir: Path, output: str) -> None:
    """Say in which ranges a node may claim pod networks, beside --pod-range of the gateway.

    Replaces what was said before, here or with its token; a running gateway follows within 2 seconds.
    """
    from gateway.admin.node import allow_pods

    with failing_in_one_line():
        cidrs = allow_pods(state_dir, name, pod_cidr, now=time.time())
    done(output, {"name": name, "pod_allow": cidrs}, f"node {name} may carry {', '.join(cidrs) or 'no pods'}")
