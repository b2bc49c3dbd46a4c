"""`raven-gateway`: the command line of the cloud end. Reads options, opens the state, runs the app."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from gateway.commands.access import access
from gateway.commands.audit import audit
from gateway.commands.ca import ca
from gateway.commands.gateway import gateway
from gateway.commands.node import node
from gateway.commands.policy import policy
from gateway.commands.token import token
from gateway.options import GatewayOptions
from raven import __version__, config, log
from raven.errors import RavenError
from raven.net.daemon import fail, supervise
from raven.net.sdnotify import Notifier
from raven.places import STATE_DIRECTORY

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=SETTINGS)
@click.version_option(__version__, prog_name="raven-gateway")
def cli() -> None:
    """The cloud end of Raven: agents dial in, operators reach nodes and pods through it."""


@cli.command(
    epilog="Exit codes: 0 after a drain; 1 for what a restart may mend; 2 when an option has to change.",
)
@config.flags(GatewayOptions)
def run(config: str | None, **given: Any) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    The first start makes the cluster's certificate authority in --state-dir and, on a terminal, prints the
    command that joins the first agent. Without the right to make network devices, or with --no-packets, the
    gateway serves O&M and metrics alone and says so in `ravenctl status`.
    """
    try:
        _run(given, config)
    except (RavenError, ExceptionGroup, KeyboardInterrupt) as error:
        fail("raven-gateway", error)


def _run(given: dict[str, Any], file: str | None) -> None:
    options = config.load(GatewayOptions, config=file, given=given)
    log.configure(level=options.log_level, format=options.log_format)

    from gateway.addresses import certified_hosts, host_name
    from gateway.app import Gateway
    from gateway.following import CopiedRegistry
    from gateway.parts import Parts
    from raven.registry.follower_state import read_follower_file
    from raven.registry.gateway_state import open_gateway
    from raven.registry.shared_state import drop_shared_file
    from raven.registry.sqlite import SqliteRegistry

    follows = read_follower_file(options.state_dir, now=time.time()) is not None
    sharing = None
    if (options.kubernetes_enabled or options.kubernetes_registry == "cluster") and not follows:
        from gateway.sharing import Sharing, shares  # who has no cluster does not pay for its client

        sharing = Sharing(options) if shares(options) else None
    state = open_gateway(
        options.state_dir,
        hosts=certified_hosts(options),
        name=options.name or (None if follows else host_name()),
        cluster=options.cluster or None,
        now=time.time(),
        share=sharing.share if sharing is not None else None,
    )
    notifier = Notifier(os.environ)
    try:
        if sharing is not None:
            registry: SqliteRegistry = sharing.open(state)
        else:
            drop_shared_file(options.state_dir)
            kind = CopiedRegistry if follows else SqliteRegistry
            registry = kind(state.registry, now=time.time())
        try:
            parts = Parts(options, state, registry, sharing=sharing)
            gateway = Gateway(parts)
            if not registry.nodes() and not follows:
                _invite(options.state_dir, str(parts.advertise))
            trio.run(
                partial(supervise, reload=gateway.reload),
                lambda stop: gateway.serve(stop, notifier),
                notifier,
            )
        finally:
            registry.close()
    finally:
        state.close()
        notifier.close()


@cli.command()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),
    default=STATE_DIRECTORY,
    show_default=True,
    metavar="DIR",
    help="Where to keep this gateway's keys and certificate.",
)
@click.option("--gateway", required=True, metavar="HOST:P", help="The gateway with the cluster's CA.")
@click.option("--token", required=True, metavar="T", help="The token; - reads it from standard input.")
@click.option("--advertise", required=True, metavar="HOST:P", help="Where agents reach this gateway.")
@click.option("--name", metavar="NAME", help="Name of this gateway. Without it, this host's name.")
@click.option("--force", is_flag=True, help="Replace the identity that is already there.")
def join(state_dir: Path, gateway: str, token: str, advertise: str, name: str | None, force: bool) -> None:
    """Join a cluster as one more gateway, once; then `raven-gateway run` serves beside the others.

    The token comes from `raven-gateway token create --gateway NAME` on the gateway with the CA. This gateway
    follows that one: it copies who has joined and goes on serving everybody while that one is away; joins and
    renewals wait for it.
    """
    from gateway.addresses import host_name
    from gateway.admin import enlist

    try:
        text = sys.stdin.readline() if token == "-" else token
        trio.run(
            lambda: enlist.enlist(
                state_dir,
                followed=config.parse_dial_option("--gateway", gateway),
                advertise=config.parse_dial_option("--advertise", advertise),
                token=text.strip(),
                name=name or host_name(),
                force=force,
            )
        )
    except (RavenError, ExceptionGroup, KeyboardInterrupt) as error:
        fail("raven-gateway", error)
    there = "" if state_dir == STATE_DIRECTORY else f" --state-dir {state_dir}"
    click.echo(f"joined as gateway {name or host_name()}; next: raven-gateway run{there}")


def _invite(state_dir: Path, advertise: str) -> None:
    """How the first agent joins. The token is a secret: a terminal gets it, a log never does."""
    if not sys.stdout.isatty():
        log.get("gateway").info(
            "no node has joined yet",
            next=f"raven-gateway token create --state-dir {state_dir} prints a token for raven-agent join",
        )
        return
    from gateway.admin.token import create_token

    token = create_token(state_dir, now=time.time())
    click.echo(
        "\nNo node has joined yet. On the edge machine, as root, within one hour:\n\n"
        f"  raven-agent join --gateway {advertise} --node NAME \\\n    --token {token}\n"
        "  raven-agent run\n\n"
        f"Another token: raven-gateway token create --state-dir {state_dir}\n"
    )


cli.add_command(token)
cli.add_command(node)
cli.add_command(gateway)
cli.add_command(audit)
cli.add_command(ca)
cli.add_command(access)
cli.add_command(policy)


def main() -> None:
    cli()
