"""`raven-gateway token`: tokens with which agents and further gateways join."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gateway.commands.output import done, failing_in_one_line, listed, moment, output_option, state_dir_option


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
    from gateway.admin.token import create_token, parse_ttl

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
    from gateway.admin import token as tokens

    with failing_in_one_line():
        entries = tokens.list_tokens(state_dir, now=time.time())
    listed(
        output,
        entries,
        ("ID", "STATE", "FOR", "EXPIRES", "USES", "LAST USED BY"),
        lambda entry: (
            entry.id,
            entry.state + (", reusable" if entry.reusable else ""),
            f"{entry.role} {entry.node}" if entry.node else f"any {entry.role}",
            moment(entry.expires),
            str(entry.uses),
            entry.used_by or "-",
        ),
    )


@token.command()
@click.argument("token_id", metavar="ID")
@state_dir_option
@output_option
def revoke(token_id: str, state_dir: Path, output: str) -> None:
    """Withdraw a token: nobody joins with it from now on. Nodes that have joined with it stay."""
    from gateway.admin.token import revoke_token

    with failing_in_one_line():
        revoke_token(state_dir, token_id, now=time.time())
    done(output, {"id": token_id, "revoked": True}, f"token {token_id} is revoked")
