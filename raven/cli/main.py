"""`ravenctl`: asks the daemon of this machine and prints what it knows. Short-lived, and changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raven import __version__
from raven.registry.verify_command import verify_command

if TYPE_CHECKING:
    from raven.config import Address

JSON = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="For people, or for programs.",
)
PROXY = click.option(
    "--proxy",
    metavar="URL",
    help="HTTP proxy to dial through, as for raven-agent, or off. Without it HTTPS_PROXY counts.",
)


CLUSTER_COMMANDS = (None, "status", "nodes")  # those that an API server can answer


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all is well; 1 something is down; 2 no daemon answered, or the command was wrong.",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path, readable=False),
    metavar="PATH",
    help="Unix socket of the daemon. Without it: this machine's gateway, or else its agent.",
)
@click.option(
    "--kubeconfig",
    metavar="FILE",
    help="Ask a cluster's API server instead of a daemon: status and nodes of all sites. The word auto stands"
    " for this pod's account, else $KUBECONFIG, else ~/.kube/config.",
)
@click.version_option(__version__, prog_name="ravenctl")
@click.pass_context
def cli(context: click.Context, socket: Path | None, kubeconfig: str | None) -> None:
    """Look at a Raven gateway or agent on this machine, or at a whole cluster with --kubeconfig.

    Every state is shown with the age of the evidence for it, in parentheses: "up 0.4 ms (3 s)" means that a
    probe sent through the lane came back after 0.4 ms, 3 seconds ago.
    """
    context.obj = socket
    if kubeconfig is not None and (socket is not None or context.invoked_subcommand not in CLUSTER_COMMANDS):
        raise click.UsageError("--kubeconfig goes with status and nodes, and not with --socket")
    if context.invoked_subcommand is None:
        if kubeconfig is None:
            raise click.exceptions.NoArgsIsHelpError(context)
        context.invoke(status, output="text")


def _kubeconfig() -> str | None:
    found: str | None = click.get_current_context().find_root().params["kubeconfig"]
    return found


@cli.command()
@JSON
@click.pass_obj
def status(socket: Path | None, output: str) -> None:
    """Show the daemon, its lanes and its nodes or gateways; with --kubeconfig gateways and sites."""
    from raven.cli import client, status

    if (kubeconfig := _kubeconfig()) is not None:
        from raven.cli import cluster

        sys.exit(cluster.show_status(kubeconfig, json=output == "json"))
    sys.exit(status.show(client.snapshot(socket), json=output == "json"))


@cli.command()
@JSON
@click.pass_obj
def nodes(socket: Path | None, output: str) -> None:
    """List the nodes of a gateway; with --kubeconfig those of all sites."""
    from raven.cli import client, nodes

    if (kubeconfig := _kubeconfig()) is not None:
        from raven.cli import cluster

        sys.exit(cluster.show_nodes(kubeconfig, json=output == "json"))
    sys.exit(nodes.show(client.snapshot(socket), json=output == "json"))


@cli.command()
@click.argument("node")
@click.option("-c", "--count", type=click.IntRange(1, 1000), default=3, show_default=True, help="How often.")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0, 3600),
    default=0.2,
    show_default=True,
    help="Seconds between two pings.",
)
@JSON
@click.pass_obj
def ping(socket: Path | None, node: str, count: int, interval: float, output: str) -> None:
    """Send probes to NODE and back through both lanes.

    On an agent, NODE is a gateway: its name, its address, or the word gateway.
    """
    from raven.cli import ping

    sys.exit(ping.ping(socket, node, count=count, interval=interval, json=output == "json"))


@cli.command()
@click.argument("target", metavar="NODE[:PORT]")
@click.option(
    "--host", default="", metavar="HOST", help="A machine behind the node, instead of the node itself."
)
@JSON
@click.pass_obj
def trace(socket: Path | None, target: str, host: str, output: str) -> None:
    """Follow one request from the gateway to NODE, and on to PORT there: each hop, its time and identity.

    Connects to the target as a request would, sends nothing, and leaves an audit line. Exit code 1: it would
    not have come through.
    """
    from raven.cli import trace

    node, colon, port = target.partition(":")
    if not node or (colon and not (port.isdecimal() and 0 < int(port) < 65536)) or (host and not colon):
        raise click.BadParameter(f"{target!r}: expected NODE or NODE:PORT; --host needs a port")
    sys.exit(trace.trace(socket, node, port=int(port or 0), host=host, json=output == "json"))


@cli.command()
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks; rates are over this span.",
)
@click.option(
    "-c", "--count", type=click.IntRange(0), help="How often.  [default: for ever on a terminal, else 1]"
)
@click.option(
    "-m", "--most", type=click.IntRange(0), default=30, show_default=True, help="Streams to show; 0 for all."
)
@JSON
@click.pass_obj
def top(socket: Path | None, interval: float, count: int | None, most: int, output: str) -> None:
    """Show the streams that are open now, the busiest first."""
    from raven.cli import render, top

    if count is None:
        count = 0 if render.is_terminal() and output == "text" else 1
    sys.exit(top.top(socket, interval=interval, count=count, most=most, json=output == "json"))


@cli.command()
@click.option(
    "-m", "--most", type=click.IntRange(1), default=50, show_default=True, help="How many, at most."
)
@JSON
@click.pass_obj
def events(socket: Path | None, most: int, output: str) -> None:
    """Tell what happened lately, newest last.

    The daemon remembers its newest 512 log lines, requests left out.
    """
    from raven.cli import events

    sys.exit(events.events(socket, most=most, json=output == "json"))


@cli.command()
@click.option(
    "--socket",
    "own_socket",
    type=click.Path(path_type=Path, readable=False),
    metavar="PATH",
    help="Unix socket of the daemon, as before the command.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),
    metavar="DIR",
    help="Where its state lies.  [default: /var/lib/raven]",
)
@click.option(
    "--gateway",
    "gateways",
    multiple=True,
    metavar="HOST:P",
    help="A gateway to try, instead of those the agent dials. May be given several times.",
)
@click.option(
    "--target",
    default="",
    metavar="NODE:PORT",
    help="A target to try: from a gateway by a real request, on a node by its allow list and a connection.",
)
@click.option(
    "--wg-interface", default="", metavar="NAME", help="The packet lane's device. [raven0, raven-gw]"
)
@PROXY
@JSON
@click.pass_obj
def doctor(
    socket: Path | None,
    own_socket: Path | None,
    state_dir: Path | None,
    gateways: tuple[str, ...],
    target: str,
    wg_interface: str,
    proxy: str | None,
    output: str,
) -> None:
    """Check every hop that can be seen from here, and name the first broken one.

    Works on an agent's host and on a gateway's, with or without the daemon running. Exit codes: 0 all well, 1
    something is broken, 2 it could not run.
    """
    from raven.cli import doctor

    sys.exit(
        doctor.doctor(
            own_socket or socket,
            state_dir=state_dir,
            gateways=[_dialled(text) for text in gateways],
            target=target,
            interface=wg_interface,
            proxy=proxy,
            json=output == "json",
        )
    )


@cli.command()
@click.argument("gateway", metavar="HOST:P")
@click.option(
    "--wg-port",
    type=click.IntRange(1, 65535),
    default=4500,
    show_default=True,
    help="UDP port of the gateway's packet lane (its --wg-listen).",
)
@PROXY
@JSON
def netcheck(gateway: str, wg_port: int, proxy: str | None, output: str) -> None:
    """Try what this network lets through towards the gateway at HOST:P.

    For an edge where nothing is installed yet: needs no daemon, no token and no root. Prints the pin of the
    CA that answers, which is the last part of a join token. Exit codes: 0 nothing is in the way of a join,
    1 something is, 2 it could not run.
    """
    from raven.cli import netcheck

    sys.exit(netcheck.netcheck(_dialled(gateway), wg_port=wg_port, proxy=proxy, json=output == "json"))


@cli.group()
def audit() -> None:
    """Who asked for what, and what came of it; needs to read the gateway's state directory."""


audit.add_command(verify_command("ravenctl"))


def _dialled(text: str) -> Address:
    from raven.config import parse_dial

    try:
        return parse_dial(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: expected HOST:PORT; {error}") from error


def main() -> None:
    cli()
