"""`raven-gateway gateway`: the gateways of a cluster."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gateway.commands.output import (
    done,
    failing_in_one_line,
    moment,
    output_option,
    print_json,
    print_table,
    state_dir_option,
)


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
    if output == "json":
        print_json(entries)
    else:
        print_table(
            ("NAME", "AGENTS DIAL", "JOINED"),
            [(entry.name, entry.address, moment(entry.created)) for entry in entries],
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
