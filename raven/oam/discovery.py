"""Connected nodes as Prometheus' HTTP service discovery wants them.

The format is that of https://prometheus.io/docs/prometheus/latest/http_sd/: groups of targets with labels. A
target is `NODE:PORT`, which only the gateway's proxy understands: scrape with `proxy_url`.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Final, Protocol
from urllib.parse import parse_qsl

from raven.oam.refusal import Refusal

CONTENT_TYPE: Final = "application/json"  # Prometheus refuses any other
DEFAULT_PORT: Final = 9100  # node exporter
_PORTS_MAX = 64  # a list for every exporter of a machine, and no way to make an answer without end


class DiscoveredNode(Protocol):
    """What discovery tells of a connected node."""

    @property
    def node(self) -> str: ...

    @property
    def pod_cidrs(self) -> Sequence[str]: ...

    @property
    def software(self) -> str: ...


def requested_ports(query: str) -> list[int]:
    """The `port` parameters of `query` in order, each once; node exporter's when there is none."""
    ports: dict[int, None] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key != "port":
            continue
        if not (value.isascii() and value.isdigit() and len(value) <= 5 and 1 <= int(value) <= 65535):
            raise Refusal(
                "bad-request", "the parameter port is a number from 1 to 65535, as in /sd?port=9100"
            )
        ports[int(value)] = None
    if len(ports) > _PORTS_MAX:
        raise Refusal("bad-request", f"at most {_PORTS_MAX} ports in one question")
    return list(ports) or [DEFAULT_PORT]


def discover(nodes: Iterable[DiscoveredNode], ports: Sequence[int]) -> bytes:
    """The answer: one group a node, so that each carries its own labels."""
    groups = [
        {
            "targets": [f"{node.node}:{port}" for port in ports],
            "labels": {
                "__meta_raven_node": node.node,
                "__meta_raven_pod_cidrs": ",".join(node.pod_cidrs),
                "__meta_raven_software": node.software,
            },
        }
        for node in nodes
    ]
    return json.dumps(groups).encode()
