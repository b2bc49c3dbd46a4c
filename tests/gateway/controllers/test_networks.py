"""Who carries which pod networks, and where gateways are dialled."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec
import pytest

from gateway.controllers.networks import Carried, carried, dialled, moved, packets_at
from raven.kube.gateways import Endpoint, Gateway, GatewayStatus, NodeInfo
from tests.gateway.controllers.scene import gateway, proxy, tunnel


def site(name: str, nodes: dict[str, tuple[str, ...]], *active: Endpoint, expose: str = "") -> Gateway:
    infos = tuple(NodeInfo(node_name=node, private_ip="", subnets=nets) for node, nets in nodes.items())
    return msgspec.structs.replace(
        gateway(name, expose=expose), status=GatewayStatus(nodes=infos, active_endpoints=active)
    )


def texts(found: Carried) -> dict[str, list[str]]:
    return {node: [str(one) for one in networks] for node, networks in found.items()}


def test_the_active_endpoint_carries_the_site() -> None:
    nodes = {"a": ("10.1.0.0/24",), "b": ("10.1.1.0/24", "fd00::/64"), "c": ("10.9.0.0/24", "nonsense")}
    found = carried([site("g", nodes, tunnel("b"), proxy("a"))])
    assert texts(found) == {"a": [], "b": ["10.1.0.0/23", "10.9.0.0/24", "fd00::/64"], "c": []}


def test_with_no_active_endpoint_nobody_does() -> None:
    assert texts(carried([site("g", {"a": ("10.1.0.0/24",)}, proxy("a"))])) == {"a": []}


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (proxy("a", public_ip="192.0.2.1"), {"a": "192.0.2.1:10262"}),
        (proxy("a", public_ip="192.0.2.1", port=443), {"a": "192.0.2.1:443"}),
        (proxy("a", public_ip="192.0.2.1", port=443, public_port=8443), {"a": "192.0.2.1:8443"}),
        (proxy("a", public_ip="2001:db8::1", port=443), {"a": "[2001:db8::1]:443"}),
        (proxy("a"), {}),
        (tunnel("a", public_ip="192.0.2.1"), {}),
    ],
)
def test_where_gateways_are_dialled(endpoint: Endpoint, expected: dict[str, str]) -> None:
    assert dialled([site("g", {}, endpoint, expose="PublicIP")]) == expected
    assert dialled([site("g", {}, endpoint)]) == {}


def test_where_datagrams_reach_a_gateway() -> None:
    active = Endpoint(node_name="c1", type="tunnel", public_ip="203.0.113.1")
    spare = Endpoint(node_name="c2", type="tunnel", public_ip="203.0.113.2")
    public = site("g", {}, active, expose="PublicIP")
    public = msgspec.structs.replace(
        public, spec=msgspec.structs.replace(public.spec, endpoints=(active, spare))
    )
    assert [packets_at([public], node) for node in ("c1", "c2", "c3")] == ["203.0.113.1", "203.0.113.2", ""]
    hidden = msgspec.structs.replace(public, spec=msgspec.structs.replace(public.spec, expose_type=""))
    assert packets_at([hidden], "c1") == ""
    streams = Endpoint(node_name="c1", type="proxy", public_ip="203.0.113.7")
    assert packets_at([site("g", {}, streams, expose="PublicIP")], "c1") == ""


def test_who_gives_up_a_network_moves_first() -> None:
    net = (ip_network("10.1.0.0/24"),)
    assert moved({"b": net, "a": ()}, {"b": (), "a": net}) == ["b", "a"]
    assert moved({"a": net, "b": ()}, {"a": (), "b": net}) == ["a", "b"]
    assert moved({"a": net}, {"a": net}) == []
    assert moved({"a": net}, {}) == ["a"]
