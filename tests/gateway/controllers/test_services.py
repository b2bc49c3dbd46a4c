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
)
from raven.kube.conventions import Lanes
from raven.kube.gateways import Gateway, GatewayStatus
from raven.kube.resources import ServicePort
from tests.gateway.controllers.scene import gateway, node, proxy, tunnel

ON = Lanes(True, True)


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
    wanted = internal([one], ON, nodes.get)
    assert wanted is not None
    found = {slice.address_type: [end.node_name for end in slice.endpoints] for slice in wanted.slices}
    assert found == {"IPv4": ["a"], "IPv6": ["b"]}
    assert len({slice.metadata.name for slice in wanted.slices}) == 2
    old = as_v1beta1(wanted.slices[0])
    assert old.endpoints[0].topology == {"kubernetes.io/hostname": "a"}
    assert old.endpoints[0].node == "a"


def test_nobody_behind_it_leaves_an_empty_slice() -> None:
    wanted = internal([gateway("g", proxy("a"), expose="PublicIP")], ON, lambda name: None)
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
    assert internal([one], lanes, lambda name: None) is None


def test_a_port_named_twice_is_there_once_and_secure() -> None:
    gateways = [
        gateway("a", expose="PublicIP", http="10250, 9100", https=""),
        gateway("b", expose="LoadBalancer", http="9100", https="10250"),
    ]
    wanted = internal(gateways, ON, lambda name: None)
    assert wanted is not None
    ports = [(port.name, port.target_port) for port in wanted.service.spec.ports]
    assert ports == [("http-9100", 10264), ("https-10250", 10263)]


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
