"""`ravenctl --kubeconfig FILE status` and `nodes`: the cluster as its API server tells it."""

from __future__ import annotations

import os
import time

import trio
from rich.text import Text

from raven.cli import render
from raven.cli.client import EXIT_DOWN, fail
from raven.errors import RavenError
from raven.kube.access import find_access
from raven.kube.client import Client
from raven.kube.overview import GatewayState, Overview, SiteNode, SiteState, carrier, overview
from raven.kube.survey import read
from raven.net.daemon import exit_code
from raven.spans import age

AUTO = "auto"  # in place of a file: the pod's own account, else $KUBECONFIG, else ~/.kube/config


def show_status(kubeconfig: str, *, json: bool) -> int:
    """Prints gateways, sites and what is wrong; the exit code."""
    found = _ask(kubeconfig)
    if json:
        render.print_json(found)
    else:
        _print(found)
    return EXIT_DOWN if is_down(found) else 0


def show_nodes(kubeconfig: str, *, json: bool) -> int:
    """Prints every node of every site; the exit code is 0 for a list of any content."""
    found = _ask(kubeconfig)
    if json:
        render.print_json([{"site": site.name, "node": node} for site in found.sites for node in site.nodes])
        return 0
    rows = [_node_row(site, node) for site in found.sites for node in site.nodes]
    if rows:
        render.print_table(["NODE", "SITE", "READY", "ACTIVE", "POD NETWORKS"], rows, whole=(2,))
    else:
        render.say("No node is in a site; the label raven.openyurt.io/gateway=SITE puts one in.")
    return 0


def is_down(of: Overview) -> bool:
    return bool(of.problems) or any(site.problems or render.is_down(site.lane) for site in of.sites)


def _ask(kubeconfig: str) -> Overview:
    async def ask() -> Overview:
        client = Client(find_access("" if kubeconfig == AUTO else kubeconfig, environ=os.environ))
        try:
            return overview(await read(client), now=time.time())
        finally:
            await client.aclose()

    try:
        return trio.run(ask)
    except (RavenError, ExceptionGroup) as error:
        fail(exit_code(error)[1])


def _print(of: Overview) -> None:
    title = Text("cluster ")
    title.append(of.cluster or "without a name yet", style="bold")
    title.append(f" at {of.server}")
    render.say(title)
    render.print_table(
        ["GATEWAY", "LEADS", "POD", "AGENTS DIAL"],
        [[one.name, _leads(one), _ready(one.ready, one.ready_for_s), one.address] for one in of.gateways],
        whole=(1, 2),
    )
    render.say()
    if of.sites:
        render.print_table(
            ["SITE", "STATE", "FOR", "ACTIVE", "NODES", "POD NETWORKS"],
            map(_site_row, of.sites),
            whole=(1, 2, 4),
        )
    else:
        render.say("No site yet: a Gateway resource makes one, docs/install-kubernetes.md has two.")
    for problem in of.problems:
        render.say(f"problem: {problem}", style="yellow")
    for site in of.sites:
        for problem in site.problems or ([site.lane.detail] if render.is_down(site.lane) else []):
            render.say(f"site {site.name}: {problem}", style="yellow")
    for note in of.notes:
        render.say(f"note: {note}")


def _site_row(of: SiteState) -> list[str | Text]:
    return [of.name, render.lane(of.lane), _span(of.for_s), _active(of), _count(of), _carried(of)]


def _leads(of: GatewayState) -> str:
    if not of.leads:
        return "no"
    return f"for {_span(of.leads_for_s)} ({_span(of.evidence_age_s)})"


def _ready(ready: bool | None, span: float | None) -> str:
    """`ready for 3 h`; nothing where nothing is known."""
    if ready is None:
        return ""
    return f"{'ready' if ready else 'not ready'}{f' for {age(span)}' if span is not None else ''}"


def _span(seconds: float | None) -> str:
    return "" if seconds is None else age(seconds)


def _active(site: SiteState) -> str:
    return ", ".join(
        f"{one.type} {one.node}{f' at {one.address}' if one.address else ''}" for one in site.active
    )


def _count(site: SiteState) -> str:
    ready = sum(node.ready is True for node in site.nodes)
    return f"{ready} of {len(site.nodes)} ready"


def _carried(site: SiteState) -> str:
    """What comes and goes through the site's tunnel."""
    return " ".join(subnet for node in site.nodes for subnet in node.subnets) if carrier(site) else ""


def _node_row(site: SiteState, node: SiteNode) -> list[str]:
    ready = _ready(node.ready, node.ready_for_s) or "not in the cluster"
    return [node.name, site.name, ready, ", ".join(node.active), " ".join(node.subnets)]
