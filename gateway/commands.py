"""`raven-gateway token`, `node` and `audit`: what an operator does with the registry of a gateway.

The commands work on the state directory, whether its gateway runs or not. What each does stands in
`gateway.token` and `gateway.node`; here are options, tables and exit codes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from raven.errors import RavenError
from raven.net.daemon import fail
from raven.places import STATE_DIRECTORY
from raven.registry.verify_command import verify_command

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

state_dir_option: Decorator = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),
    default=STATE_DIRECTORY,
    show_default=True,
    metavar="DIR",
    help="The gateway's state directory; the gateway may be running.",
)
output_option: Decorator = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people, or for programs.",
)


@click.group()
def token() -> None:
    """Tokens with which agents join."""


@token.command()
@state_dir_option
@click.option(
    "--node", metavar="NAME", help="The only node it is for; that node may also join again with it."
)
@click.option(
    "--gateway", metavar="NAME", help="For one more gateway of the cluster, of that name, instead of a node."
)
@click.option(
    "--ttl", default="1h", show_default=True, metavar="TIME", help="How long it is good: 90s, 15m, 1h, 7d."
)
@click.option("--reusable", is_flag=True, help="Any number of nodes may join with it until it expires.")
@click.option(
    "--pod-cidr",
    multiple=True,
    metavar="CIDR",
    help="A range in which the node that joins may claim pod networks, beside --pod-range of the gateway.",
)
def create(
    state_dir: Path,
    node: str | None,
    gateway: str | None,
    ttl: str,
    reusable: bool,
    pod_cidr: tuple[str, ...],
) -> None:
    """Print a new token, and nothing else.

    It is a secret until it is used or expires. It also carries the hash of the gateway's key, so an agent
    that joins with it cannot be fooled by another gateway.
    """
    from gateway.token import create_token, parse_ttl

    if node and gateway:
        raise click.UsageError("--node and --gateway exclude each other")
    with failing_in_one_line():
        text = create_token(
            state_dir,
            node=gateway or node,
            role="gateway" if gateway else "node",
            ttl=parse_ttl(ttl),
            reusable=reusable,
            pod_cidrs=pod_cidr,
            now=time.time(),
        )
    click.echo(text)


@token.command("list")
@state_dir_option
@output_option
def list_tokens(state_dir: Path, output: str) -> None:
    """Show the tokens that are remembered, newest first; never their secrets."""
    from gateway import token as tokens

    with failing_in_one_line():
        entries = tokens.list_tokens(state_dir, now=time.time())
    if output == "json":
        print_json(entries)
    else:
        print_table(
            ("ID", "STATE", "FOR", "EXPIRES", "USES", "LAST USED BY"),
            [
                (
                    entry.id,
                    entry.state + (", reusable" if entry.reusable else ""),
                    f"{entry.role} {entry.node}" if entry.node else f"any {entry.role}",
                    moment(entry.expires),
                    str(entry.uses),
                    entry.used_by or "-",
                )
                for entry in entries
            ],
        )


@token.command()
@click.argument("token_id", metavar="ID")
@state_dir_option
@output_option
def revoke(token_id: str, state_dir: Path, output: str) -> None:
    """Withdraw a token: nobody joins with it from now on. Nodes that have joined with it stay."""
    from gateway.token import revoke_token

    with failing_in_one_line():
        revoke_token(state_dir, token_id, now=time.time())
    done(output, {"id": token_id, "revoked": True}, f"token {token_id} is revoked")


@click.group()
def node() -> None:
    """Nodes that have joined."""


@node.command("list")
@state_dir_option
@output_option
def list_nodes(state_dir: Path, output: str) -> None:
    """Show what the registry knows of each node; who is connected shows `ravenctl nodes`."""
    from gateway import node as nodes

    with failing_in_one_line():
        entries = nodes.list_nodes(state_dir, now=time.time())
    if output == "json":
        print_json(entries)
    else:
        print_table(
            ("NAME", "JOINED", "LAST SEEN", "CERTIFICATE UNTIL", "SOFTWARE"),
            [
                (
                    entry.name,
                    moment(entry.created),
                    moment(entry.last_seen),
                    moment(entry.certificate_expires),
                    entry.software or "-",
                )
                for entry in entries
            ],
        )


@node.command()
@click.argument("name")
@state_dir_option
@output_option
def remove(name: str, state_dir: Path, output: str) -> None:
    """Forget a node and revoke its certificates; a running gateway cuts its tunnel within 2 seconds.

    The node comes back only by joining anew with a token; revoke the tokens it may still have.
    """
    from gateway.node import remove_node

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
    from gateway.node import allow_pods

    with failing_in_one_line():
        cidrs = allow_pods(state_dir, name, pod_cidr, now=time.time())
    done(output, {"name": name, "pod_allow": cidrs}, f"node {name} may carry {', '.join(cidrs) or 'no pods'}")


@click.group()
def gateway() -> None:
    """Gateways of this cluster."""


@gateway.command("list")
@state_dir_option
@output_option
def list_gateways(state_dir: Path, output: str) -> None:
    """Show the gateways that agents keep tunnels to."""
    from gateway import gateway as gateways

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
    from gateway.gateway import remove_gateway

    with failing_in_one_line():
        remove_gateway(state_dir, name, now=time.time())
    done(output, {"name": name, "removed": True}, f"gateway {name} is removed")


@click.group()
def ca() -> None:
    """The cluster's certificate authority."""


@ca.command("rotate")
@state_dir_option
@output_option
def rotate_ca(state_dir: Path, output: str) -> None:
    """Make a new CA, which the gateway takes and trusts beside the one before.

    A gateway that runs takes it within 2 seconds, another one at its next start. Agents learn it over their
    tunnels and renew under it; those that come within 90 days lose nothing. Tokens made before are for the CA
    before, and stop working.
    """
    from gateway.ca import rotate
    from raven.pki.token import pin_text

    with failing_in_one_line():
        pin = pin_text(rotate(state_dir, now=time.time(), random=os.urandom))
    done(output, {"pin": pin}, f"the gateway takes the new CA, with pin {pin}, at once or at its next start")


@ca.command("retire")
@state_dir_option
@output_option
def retire_ca(state_dir: Path, output: str) -> None:
    """End the overlap: only the current CA is trusted, at once or from the gateway's next start.

    Nodes that have not come back since `ca rotate` have to join again.
    """
    from gateway.ca import retire

    with failing_in_one_line():
        retire(state_dir, now=time.time())
    done(output, {"retired": True}, "the gateway forgets the CA before at once or at its next start")


@click.group()
def audit() -> None:
    """Who asked for what, and what came of it."""


audit.add_command(verify_command("raven-gateway"))


@contextmanager
def failing_in_one_line() -> Iterator[None]:
    try:
        yield
    except RavenError as error:
        fail("raven-gateway", error)


def done(output: str, value: object, sentence: str) -> None:
    if output == "json":
        print_json(value)
    else:
        click.echo(sentence)


def print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def moment(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
