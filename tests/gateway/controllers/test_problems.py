"""What is wrong with a specification, where no API server has said so."""

from __future__ import annotations

import msgspec
import pytest

from gateway.controllers.problems import Claim, claims, parse_port, spec_problems, split_ports, taken
from raven.kube.gateways import Endpoint, Gateway
from tests.gateway.controllers.scene import gateway, proxy, tunnel


@pytest.mark.parametrize(
    "good",
    [
        gateway("g"),
        gateway("g", tunnel("a", under_nat=True), proxy("a", under_nat=True), tunnels=1, proxies=1),
        gateway("g", tunnel("a", public_ip="2001:db8::1"), expose="PublicIP"),
        gateway("g", tunnel("a")),  # proxyConfig is there: 0 is meant
        gateway("g", http="", https=""),
        gateway("g", proxy("a"), expose="LoadBalancer", proxies=1, http=" 10255 , 9445", https=""),
    ],
)
def test_good(good: Gateway) -> None:
    assert spec_problems(good) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (gateway("g", expose="NodePort"), "exposeType 'NodePort'"),
        (gateway("g", tunnel("a"), http="", https=""), "v1alpha1 wants tunnelConfig.Replicas 1"),
        (gateway("g", tunnels=2), "tunnelConfig.Replicas 2"),
        (gateway("g", proxy("a"), proxies=2), "only 1 endpoints are there"),
        (gateway("g", http="80,x"), "proxyHTTPPort: 'x' is no port"),
        (gateway("g", https="70000"), "proxyHTTPSPort: '70000' is no port"),
        (gateway("g", tunnel("a"), tunnel("a", port=1)), "2 endpoints of type tunnel"),
        (gateway("g", tunnel("")), "endpoints[0].nodeName"),
        (gateway("g", Endpoint(node_name="a", type="vpn")), "endpoints[0].type 'vpn'"),
        (gateway("g", tunnel("a", port=70000)), "endpoints[0].port 70000"),
        (gateway("g", tunnel("a", public_port=-1)), "endpoints[0].publicPort -1"),
        (gateway("g", tunnel("a", public_ip="example.com")), "endpoints[0].publicIP 'example.com'"),
        (gateway("g", tunnel("a"), tunnel("b", under_nat=True), expose="PublicIP"), "endpoints[1].underNAT"),
    ],
)
def test_bad(bad: Gateway, said: str) -> None:
    (problem,) = spec_problems(bad)
    assert said in problem


def test_the_oldest_has_the_port() -> None:
    old = gateway("old", tunnel("a", public_ip="192.0.2.1"), created="2026-01-01T00:00:00Z")
    new = gateway("new", tunnel("b", public_ip="192.0.2.1", port=4500), created="2026-02-01T00:00:00Z")
    other = gateway(
        "other", tunnel("c", public_ip="192.0.2.1", public_port=4501), proxy("c", public_ip="192.0.2.1")
    )
    held = claims([new, other, old])
    assert held[Claim("tunnel", "192.0.2.1", 4500)] == "old"
    assert taken(old, held) == taken(other, held) == {}
    assert list(taken(new, held)) == [("b", "tunnel")]
    same = [
        msgspec.structs.replace(one)
        for one in (gateway("b", *old.spec.endpoints), gateway("a", *old.spec.endpoints))
    ]
    assert set(claims(same).values()) == {"a"}  # of one age: by name


@pytest.mark.parametrize(
    ("text", "port"),
    [("1", 1), ("65535", 65535), ("0", None), ("65536", None), ("", None), ("٣", None), ("-1", None)],
)
def test_ports(text: str, port: int | None) -> None:
    assert parse_port(text) == port


def test_comma_lists() -> None:
    assert split_ports(" 1, 2,,3 ,") == ["1", "2", "3"]
    assert split_ports("") == []
