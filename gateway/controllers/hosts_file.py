"""The hosts file in `edge-tunnel-nodes`, from which the control plane's DNS answers for names of nodes.

A node that only we can reach has the internal proxy Service's address, every other its own. OpenYurt gives
all nodes the Service's, and its proxy then dials the cloud's own nodes directly; ours would have nothing to
add there but a hop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raven.kube.conventions import address_of
from raven.kube.resources import Node

SIZE_MAX = 1_000_000  # bytes; a ConfigMap holds a little more than that, some 25,000 nodes


def hosts_file(nodes: Iterable[Node], *, is_ours: Callable[[Node], bool], proxy: str) -> str:
    """One line a node, sorted; `proxy` is the Service's address, "" where there is none."""
    lines = []
    for node in nodes:
        address = proxy if proxy and is_ours(node) else address_of(node, "InternalIP", "ExternalIP")
        if address:
            lines.append(f"{address}\t{node.metadata.name}")
    return "\n".join(sorted(lines))
