"""`raven-gateway gateway`: the gateways of a cluster."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gateway.commands.output import done, failing_in_one_line, listed, moment, output_option, state_dir_option


@click.group()
def gateway() -> None:
    """Gateways of this cluster."""


@gateway.command("list")
@state_dir_option
@output_option
def list_gateways(state_dir: Path, output: str) -> None:
    """Show the gateways that agents keep tunnels to."""
    from gateway.admin import gateway as gateways

    with failing_in_one_line():
        entries = gateways.list_gateways(state_dir, now=time.time())
    listed(
        output,
        entries,
        ("NAME", "AGENTS DIAL", "JOINED"),
        lambda entry: (entry.name, entry.address, moment(entry.created)),
    )


@gateway.command("remove")
@click.argument("name")
@state_dir_option
@output_option
def remove_gateway(name: str, state_dir: Path, output: str) -> None:
    """Take a gateway off the list: agents leave it within seconds, and it gets no copies any more.

    Stop its raven-gateway as well: whoever dials it still finds a gateway of this cluster there.
    """
    from gateway.admin.gateway import remove_gateway

    with failing_in_one_line():
        remove_gateway(state_dir, name, now=time.time())
    done(output, {"name": name, "removed": True}, f"gateway {name} is removed")
