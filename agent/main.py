"""`raven-agent`: the command line of the edge end: joins a cluster once, then runs the app."""

from __future__ import annotations

import os
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from agent.options import AgentOptions
from raven import __version__, config, log
from raven.errors import RavenError
from raven.net.daemon import fail, supervise
from raven.net.proxy import ways_by
from raven.net.sdnotify import Notifier

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=SETTINGS)
@click.version_option(__version__, prog_name="raven-agent")
def cli() -> None:
    """The edge end of Raven: dials the gateways and lets them reach what this node's owner allows."""


@cli.command(
    epilog="Exit codes: 0 after a drain; 1 for what a restart may mend; 2 when an option has to change.",
)
@config.flags(AgentOptions)
def run(config: str | None, **given: Any) -> None:
    """Run the agent until SIGTERM or Ctrl-C.

    It keeps a tunnel to every gateway that `raven-agent join` learned of, dials again whenever one is lost,
    and connects the streams that come through to the targets that --allow names. Without the right to make
    network devices, or with --no-packets, it serves streams alone and says so in `ravenctl status`.
    """
    try:
        _run(given, config)
    except (RavenError, ExceptionGroup, KeyboardInterrupt) as error:
        fail("raven-agent", error)


def _run(given: dict[str, Any], file: str | None) -> None:
    options = config.load(AgentOptions, config=file, given=given)
    log.configure(level=options.log_level, format=options.log_format)
    from agent.app import Agent
    from raven.registry.agent_state import open_agent

    state = open_agent(options.state_dir, now=time.time())
    notifier = Notifier(os.environ)
    try:
        agent = Agent(
            options,
            state,
            config=None if file is None else Path(file),
            load=lambda: config.load(AgentOptions, config=file, given=given),
        )
        trio.run(partial(supervise, reload=agent.reload), lambda stop: agent.serve(stop, notifier), notifier)
    finally:
        state.close()
        notifier.close()


@cli.command()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/raven"),
    show_default=True,
    metavar="DIR",
    help="Where to keep the node's keys and certificate.",
)
@click.option("--gateway", required=True, metavar="HOST:P", help="A gateway of the cluster.")
@click.option(
    "--proxy",
    metavar="URL",
    help="HTTP proxy to dial through, or off. Without it HTTPS_PROXY counts, a better place for a password.",
)
@click.option("--token", required=True, metavar="T", help="The token; - reads it from standard input.")
@click.option(
    "--node",
    metavar="NAME",
    default=lambda: socket.gethostname().lower(),
    show_default="this host's name",
    help="Name of this node in the cluster.",
)
@click.option("--force", is_flag=True, help="Replace the identity that is already there.")
def join(state_dir: Path, gateway: str, proxy: str | None, token: str, node: str, force: bool) -> None:
    """Join a cluster, once: get a certificate for this node's name.

    The token comes from `raven-gateway token create`. The gateway is believed only if its key is the one the
    token was made for. A token on a command line is visible to other users of this machine while the command
    runs; `--token -` avoids that.
    """
    from agent import join as joining

    try:
        address = config.parse_dial_option("--gateway", gateway)
        ways = ways_by(proxy, os.environ)
        text = sys.stdin.readline() if token == "-" else token
        joined = trio.run(
            lambda: joining.join(
                state_dir, gateway=address, token=text.strip(), node=node, force=force, ways=ways
            )
        )
    except (RavenError, ExceptionGroup, KeyboardInterrupt) as error:
        fail("raven-agent", error)
    click.echo(f"joined cluster {joined.state.cluster} as node {joined.state.node}; next: raven-agent run")


def main() -> None:
    cli()
