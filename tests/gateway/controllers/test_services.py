"""Services and slices as values."""

from __future__ import annotations

import re

import msgspec
import pytest

from gateway.controllers.services import (
    as_v1beta1,
    exposing,
    internal,
    service_as_wanted,
    service_name,
    without_a_door,
)
from raven.kube.conventions import Doors, Lanes
from raven.kube.gateways import Gateway, GatewayStatus
from raven.kube.resources import ServicePort
from tests.gateway.controllers.scene import gateway, node, proxy, tunnel

ON = Lanes(True, True)
DOORS = Doors({10250: 10263, 9100: 10274}, 10264)


@pytest.mark.parametrize("site", ["a", "shop.example.com", "x" * 253, "-".join("ab" * 40)])
def test_names_fit_a_label_and_stay(site: str) -> None:
    name = service_name("x-raven-proxy-svc", site, "n1")
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)
    assert (
        name == service_name("x-raven-proxy-svc", site, "n1") != service_name("x-raven-proxy-svc", site, "n2")
    )


def active(one: Gateway) -> Gateway:
    return msgspec.structs.replace(one, status=GatewayStatus(active_endpoints=one.spec.endpoints))


def test_both_families_have_a_slice() -> None:
    nodes = {"a": node("a", address="192.0.2.1"), "b": node("b", address="2001:db8::1"), "c": node("c")}
    one = active(gateway("g", proxy("a"), proxy("b"), proxy("c"), proxy("ghost"), expose="PublicIP"))
    wanted = internal([one], ON, DOORS, nodes.get)
    assert wanted is not None
    found = {slice.address_type: [end.node_name for end in slice.endpoints] for slice in wanted.slices}
    assert found == {"IPv4": ["a"], "IPv6": ["b"]}
    assert len({slice.metadata.name for slice in wanted.slices}) == 2
    old = as_v1beta1(wanted.slices[0])
    assert old.endpoints[0].topology == {"kubernetes.io/hostname": "a"}
    assert old.endpoints[0].node == "a"


def test_nobody_behind_it_leaves_an_empty_slice() -> None:
    wanted = internal([gateway("g", proxy("a"), expose="PublicIP")], ON, DOORS, lambda name: None)
    assert wanted is not None
    assert [slice.endpoints for slice in wanted.slices] == [()]


@pytest.mark.parametrize(
    ("one", "lanes"),
    [
        (gateway("g", proxy("a")), ON),  # only dials out
        (gateway("g", proxy("a"), expose="PublicIP"), Lanes(False, True)),
        (gateway("g", proxy("a"), expose="PublicIP", http="", https="none"), ON),
    ],
)
def test_no_internal_service(one: Gateway, lanes: Lanes) -> None:
    assert internal([one], lanes, DOORS, lambda name: None) is None


def test_a_port_named_twice_is_there_once_and_secure() -> None:
    gateways = [
        gateway("a", expose="PublicIP", http="10250, 9100", https=""),
        gateway("b", expose="LoadBalancer", http="9100", https="10250"),
    ]
    wanted = internal(gateways, ON, DOORS, lambda name: None)
    assert wanted is not None
    ports = [(port.name, port.target_port) for port in wanted.service.spec.ports]
    assert ports == [("http-9100", 10264), ("https-10250", 10263)]


def test_each_port_of_the_nodes_has_a_door_of_its_own() -> None:
    """TLS names a node and no port: what comes in at the kubelets' door ends at a kubelet."""
    one = gateway("a", expose="PublicIP", http="9445", https="10250,9100,9999")
    for doors, expected in (
        (DOORS, [("https-9100", 10274), ("http-9445", 10264), ("https-10250", 10263)]),
        (Doors({10250: 10263}), [("https-10250", 10263)]),
    ):
        wanted = internal([one], ON, doors, lambda name: None)
        assert wanted is not None
        assert [(port.name, port.target_port) for port in wanted.service.spec.ports] == expected
    assert internal([one], ON, Doors({}), lambda name: None) is None


def test_a_port_without_a_door_is_told() -> None:
    one = gateway("a", expose="PublicIP", http="9445", https="10250,9999")
    wrong, notes = without_a_door(one, DOORS)
    assert ["9999" in sentence for sentence in wrong] == [True]
    assert notes == []
    assert "9445: left out" in without_a_door(one, Doors({}))[1][0]
    assert without_a_door(gateway("a", https="9999"), DOORS) == ([], [])  # nobody is led to it


def test_only_load_balancers_have_services_of_their_own() -> None:
    for expose, count in (("", 0), ("PublicIP", 0), ("LoadBalancer", 2)):
        one = active(gateway("g", proxy("a"), tunnel("a"), expose=expose))
        assert len(exposing(one, ON, lambda name: None)) == count
    assert len(exposing(one, Lanes(True, False), lambda name: None)) == 1


def test_what_the_api_server_gave_stays() -> None:
    one = active(gateway("g", proxy("a"), expose="LoadBalancer"))
    ((wanted, _),) = exposing(one, ON, lambda name: None)
    held = msgspec.structs.replace(
        wanted,
        metadata=msgspec.structs.replace(wanted.metadata, labels={"theirs": "x"}, resource_version="5"),
        spec=msgspec.structs.replace(
            wanted.spec,
            cluster_ip="10.96.0.1",
            ports=tuple(
                msgspec.structs.replace(port, node_port=30000, target_port=1) for port in wanted.spec.ports
            ),
        ),
    )
    new = service_as_wanted(held, wanted)
    assert new.spec.cluster_ip == "10.96.0.1"
    assert new.spec.ports == (ServicePort(port=10262, name="proxy", target_port=10262, node_port=30000),)
    assert new.metadata.labels["theirs"] == "x"
    assert service_as_wanted(new, wanted) == new
