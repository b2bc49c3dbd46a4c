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
from raven.errors import ConfigError, RavenError
from raven.net.daemon import fail, supervise
from raven.net.proxy import ways_by
from raven.net.sdnotify import Notifier
from raven.places import STATE_DIRECTORY
from raven.terminal import printable

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
    from agent.parts import Parts
    from raven.registry.agent_state import open_agent

    state = open_agent(options.state_dir, now=time.time())
    notifier = Notifier(os.environ)
    try:
        parts = Parts(
            options,
            state,
            config=None if file is None else Path(file),
            load=lambda: config.load(AgentOptions, config=file, given=given),
        )
        agent = Agent(parts)
        trio.run(partial(supervise, reload=agent.reload), lambda stop: agent.serve(stop, notifier), notifier)
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
    help="Where to keep the node's keys and certificate.",
)
@click.option(
    "--gateway",
    metavar="HOST:P",
    help="A gateway of the cluster. Where the API server is asked, one to try before those it tells of.",
)
@click.option(
    "--proxy",
    metavar="URL",
    help="HTTP proxy to dial gateways through, or off. Without it HTTPS_PROXY counts, a better place for a"
    " password.",
)
@click.option(
    "--token",
    metavar="T",
    help="A gateway's join token, or with --api-server a bootstrap token of Kubernetes; - reads it from"
    " standard input.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Ask the API server of this file for the certificate, as whoever it is for. The kubelet's,"
    " /etc/kubernetes/kubelet.conf, needs no token.",
)
@click.option(
    "--api-server", metavar="HOST:P", help="The same with a bootstrap token and no file; needs --api-ca."
)
@click.option(
    "--api-ca",
    metavar="FILE|HASH",
    help="CA of the API server: a file in PEM, or sha256:HEX of its key as for `kubeadm join`.",
)
@click.option(
    "--node",
    metavar="NAME",
    help="Name of this node in the cluster.  [default: the kubelet's where that asks, else this host's]",
)
@click.option("--force", is_flag=True, help="Replace the identity that is already there.")
def join(
    state_dir: Path,
    gateway: str | None,
    proxy: str | None,
    token: str | None,
    kubeconfig: Path | None,
    api_server: str | None,
    api_ca: str | None,
    node: str | None,
    force: bool,
) -> None:
    """Join a cluster, once: get a certificate for this node's name.

    With --gateway and --token, by a token of `raven-gateway token create`: the gateway is believed only if
    its key is the one the token was made for. With --kubeconfig, or --api-server and a bootstrap token, by a
    certificate request to Kubernetes, which a gateway signs. A token on a command line is visible to other
    users of this machine while the command runs; `--token -` avoids that.
    """
    try:
        _check_ways(gateway, token, kubeconfig, api_server, api_ca)
        address = None if gateway is None else config.parse_dial_option("--gateway", gateway)
        ways = ways_by(proxy, os.environ)
        text = (sys.stdin.readline() if token == "-" else token or "").strip()
        if kubeconfig is not None or api_server is not None:
            from agent import kube_join  # loads a client for Kubernetes, which the others do without

            joined = trio.run(
                partial(
                    kube_join.join,
                    state_dir,
                    node=node or "",
                    kubeconfig=kubeconfig,
                    api_server=api_server or "",
                    api_ca=api_ca or "",
                    token=text,
                    gateway=address,
                    force=force,
                    ways=ways,
                    say=lambda sentence: click.echo(f"raven-agent: {printable(sentence)}", err=True),
                )
            )
        else:
            from agent import join as joining

            assert address is not None  # by _check_ways
            name = socket.gethostname().lower() if node is None else node
            joined = trio.run(
                partial(
                    joining.join, state_dir, gateway=address, token=text, node=name, force=force, ways=ways
                )
            )
    except (RavenError, ExceptionGroup, KeyboardInterrupt) as error:
        fail("raven-agent", error)
    there = "" if state_dir == STATE_DIRECTORY else f" --state-dir {state_dir}"
    click.echo(
        f"joined cluster {joined.state.cluster} as node {joined.state.node}; next: raven-agent run{there}"
    )


def _check_ways(
    gateway: str | None,
    token: str | None,
    kubeconfig: Path | None,
    api_server: str | None,
    api_ca: str | None,
) -> None:
    """ConfigError unless the options are one of the three ways to join."""
    if kubeconfig is not None and (token is not None or api_server is not None or api_ca is not None):
        raise ConfigError("--kubeconfig stands in place of --token, --api-server and --api-ca")
    if kubeconfig is None and api_server is None and (gateway is None or token is None or api_ca is not None):
        raise ConfigError(
            "how to join: --gateway HOST:P and --token T, or --kubeconfig FILE,"
            " or --api-server HOST:P, --api-ca FILE|HASH and --token T"
        )
    if api_server is not None and (api_ca is None or token is None):
        raise ConfigError("--api-server needs --api-ca FILE|HASH and --token T, a bootstrap token")


def main() -> None:
    cli()
