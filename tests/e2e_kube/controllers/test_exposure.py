"""How others reach the gateways: load balancers, public addresses, the internal Service, the hosts file."""

import re
from itertools import pairwise
from typing import Any

from tests.e2e_kube.controllers.objects import (
    GATEWAYS,
    INTERNAL,
    LABEL,
    NODES,
    PROXIES,
    SECONDS,
    SYSTEM,
    TUNNELS,
    KubeGateway,
    Objects,
    proxy,
    tunnel,
)
from tests.lab.waiting import wait_until


def _cloud(objects: Objects) -> None:
    objects.node("c1", "cloud", address="192.0.2.1")
    objects.node("c2", "cloud", address="192.0.2.2", external="198.51.100.2")
    objects.site("cloud", proxy("c1", publicIP="198.51.100.1"), proxy("c2", port=443), **PROXIES)


def _leads_to(objects: Objects, *addresses: str) -> None:
    wait_until(
        lambda: objects.addresses() == list(addresses),
        what=f"the internal Service to lead to {addresses}, not {objects.addresses()}",
        seconds=SECONDS,
    )


def _hosts(objects: Objects) -> dict[str, str]:
    """The hosts file, address by name."""
    held = objects.api.get(f"{SYSTEM}/configmaps/edge-tunnel-nodes") or {"data": {"tunnel-nodes": ""}}
    lines = held["data"]["tunnel-nodes"].splitlines()
    return {name: address for address, name in (line.split("\t") for line in lines)}


def test_the_table_says_what_it_shows(objects: Objects, leader: KubeGateway) -> None:
    """The API server prints one value a column: the tunnel, of which there is one, and the first proxy."""
    objects.node("c1", "cloud", address="192.0.2.1")
    objects.node("c2", "cloud", address="192.0.2.2", external="198.51.100.2")
    ends = (proxy("c1", publicIP="198.51.100.1"), proxy("c2"), tunnel("c2"))
    objects.site("cloud", *ends, exposeType="PublicIP", proxyConfig={"Replicas": 2}, **TUNNELS)

    def row(*options: str) -> dict[str, str]:
        """What kubectl prints of the Gateway, by column."""
        done = objects.server.kubectl("get", "gateways.raven.openyurt.io", "cloud", *options)
        head, line = done.out.splitlines()
        starts = [match.start() for match in re.finditer(r"(?<!\S)\S+( \S+)*", head)]
        spans = pairwise([*starts, None])
        return {head[a:b].strip(): line[a:b].strip() for a, b in spans}

    wait_until(lambda: row().get("TUNNEL") == "c2", what=f"the tunnel, not {row()}", seconds=SECONDS)
    assert row()["FIRST PROXY"] == "c1"
    assert "ACTIVE" not in row()
    objects.set_ready("c1", False)
    wait_until(lambda: row()["READY"] == "False", what="Ready False", seconds=SECONDS)
    assert row()["FIRST PROXY"] == "c2"
    assert "1 of 2 endpoints of type proxy active" in row("-o", "wide")["WHY"]


def test_the_internal_service_and_the_names_of_nodes(objects: Objects, leader: KubeGateway) -> None:
    objects.node("e1", "shop", address="10.0.0.1")
    objects.node("other", address="192.0.2.7")
    objects.site("shop", tunnel("e1"), **TUNNELS)
    _cloud(objects)
    _leads_to(objects, "192.0.2.1", "192.0.2.2")
    service = objects.api.get(f"{SYSTEM}/services/{INTERNAL}")
    # What the CRD has by default, each port with a door of its own. HTTP has one on loopback here, so none.
    assert [(one["name"], one["port"], one["targetPort"]) for one in service["spec"]["ports"]] == [
        ("https-9100", 9100, leader.names[9100]),
        ("https-10250", 10250, leader.names[10250]),
    ]
    (slice,) = objects.slices(INTERNAL)
    assert slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "raven.openyurt.io"
    assert {(one["name"], one["port"]) for one in slice["ports"]} == {
        ("https-9100", leader.names[9100]),
        ("https-10250", leader.names[10250]),
    }
    (accepted,) = [one for one in objects.status("cloud")["conditions"] if one["type"] == "Accepted"]
    assert (accepted["status"], "10255, 9445: left out" in accepted["message"]) == ("True", True)
    objects.api.merge(f"{GATEWAYS}/cloud", {"spec": {"proxyConfig": {"proxyHTTPSPort": "10250,9999"}}})
    wait_until(
        lambda: any("9999: left out" in said for _, said in objects.events("cloud")),
        what="the port that leads nowhere to be told",
        seconds=SECONDS,
    )
    wanted = {
        "e1": service["spec"]["clusterIP"],
        "c1": "192.0.2.1",
        "c2": "192.0.2.2",
        "other": "192.0.2.7",
    }
    wait_until(lambda: _hosts(objects) == wanted, what=f"{wanted}, not {_hosts(objects)}", seconds=SECONDS)
    objects.api.delete(f"{NODES}/other")
    objects.label("e1", None)
    wanted = {"e1": "10.0.0.1", "c1": "192.0.2.1", "c2": "192.0.2.2"}
    wait_until(lambda: _hosts(objects) == wanted, what=f"{wanted}, not {_hosts(objects)}", seconds=SECONDS)
    objects.api.delete(f"{GATEWAYS}/cloud")
    wait_until(
        lambda: objects.api.get(f"{SYSTEM}/services/{INTERNAL}") is None and not objects.slices(INTERNAL),
        what="the Service and its slice to go with the last Gateway that is exposed",
        seconds=SECONDS,
    )


def test_public_addresses_are_those_of_the_specification_and_of_the_node(
    objects: Objects, leader: KubeGateway
) -> None:
    _cloud(objects)
    wait_until(lambda: len(objects.active("cloud")) == 2, what="both to be active", seconds=SECONDS)
    active = [(one["publicIP"], one["port"]) for one in objects.status("cloud")["activeEndpoints"]]
    assert active == [("198.51.100.1", 10262), ("198.51.100.2", 443)]


def _exposing(objects: Objects) -> dict[str, Any]:
    """The Services that expose Gateways, by type of endpoint."""
    found = objects.api.items(f"{SYSTEM}/services")
    return {
        one["metadata"]["labels"]["raven.openyurt.io/gateway-type"]: one
        for one in found
        if LABEL in one["metadata"].get("labels", {})
    }


def test_load_balancers(objects: Objects, leader: KubeGateway) -> None:
    objects.node("c1", "cloud", address="192.0.2.1")
    objects.node("c2", "cloud", address="192.0.2.2")
    balanced = {"exposeType": "LoadBalancer", "proxyConfig": {"Replicas": 1}, **TUNNELS}
    objects.site("cloud", proxy("c1", port=443), proxy("c2", port=443), tunnel("c1"), **balanced)
    wait_until(lambda: len(_exposing(objects)) == 2, what="a Service for each endpoint", seconds=SECONDS)
    by_type = _exposing(objects)
    ports = {
        type: [(one["port"], one["targetPort"], one["protocol"]) for one in service["spec"]["ports"]]
        for type, service in by_type.items()
    }
    assert ports == {"proxy": [(443, 10262, "TCP")], "tunnel": [(4500, 4500, "UDP")]}
    service = by_type["proxy"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert service["metadata"]["annotations"] == {"svc.openyurt.io/discard": "true"}
    name, node_port = service["metadata"]["name"], service["spec"]["ports"][0]["nodePort"]
    wait_until(
        lambda: objects.addresses(name) == ["192.0.2.1"], what="its slice to lead to c1", seconds=SECONDS
    )
    # As a cloud's load balancer answers.
    ingress = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}}
    objects.api.merge(f"{SYSTEM}/services/{name}/status", ingress)
    wait_until(
        lambda: (
            [one.get("publicIP") for one in objects.status("cloud")["activeEndpoints"]][:1] == ["203.0.113.9"]
        ),
        what="the address in the status",
        seconds=SECONDS,
    )
    kept = objects.api.get(f"{SYSTEM}/services/{name}")
    assert kept["spec"]["ports"][0]["nodePort"] == node_port
    wait_until(
        lambda: any(reason == "Exposed" and name in said for reason, said in objects.events("cloud")),
        what="an Event",
        seconds=SECONDS,
    )
    # Another endpoint is elected: its own Service comes, the old one goes.
    objects.set_ready("c1", False)
    wait_until(
        lambda: (
            set(_exposing(objects)) == {"proxy"}
            and objects.addresses(_exposing(objects)["proxy"]["metadata"]["name"]) == ["192.0.2.2"]
        ),
        what="a Service that leads to c2",
        seconds=SECONDS,
    )
    objects.api.delete(f"{GATEWAYS}/cloud")
    wait_until(lambda: not _exposing(objects), what="Services to go with their Gateway", seconds=SECONDS)


def test_switched_off_nothing_is_exposed(objects: Objects, leader: KubeGateway) -> None:
    _cloud(objects)
    _leads_to(objects, "192.0.2.1", "192.0.2.2")
    config = f"{SYSTEM}/configmaps/raven-cfg"
    objects.api.merge(config, {"data": {"enable-l7-proxy": "FALSE"}})
    try:
        wait_until(
            lambda: (
                objects.active("cloud") == [] and objects.api.get(f"{SYSTEM}/services/{INTERNAL}") is None
            ),
            what="everything to go",
            seconds=SECONDS,
        )
    finally:
        objects.api.merge(config, {"data": {"enable-l7-proxy": "True"}})
    _leads_to(objects, "192.0.2.1", "192.0.2.2")


def test_what_others_change_is_put_right(objects: Objects, leader: KubeGateway) -> None:
    """Conflicting writers: somebody undoes all of it, again and again, and puts fields of their own in."""
    _cloud(objects)
    _leads_to(objects, "192.0.2.1", "192.0.2.2")
    (slice,) = objects.slices(INTERNAL)
    path = f"{objects.discovery()}/endpointslices/{slice['metadata']['name']}"
    for number in range(5):
        objects.api.merge(path, {"endpoints": [], "metadata": {"annotations": {"mine": str(number)}}})
        objects.api.merge(f"{GATEWAYS}/cloud/status", {"status": {"activeEndpoints": None, "nodes": None}})
        objects.api.merge(f"{SYSTEM}/configmaps/edge-tunnel-nodes", {"data": {"tunnel-nodes": "nonsense\tx"}})
    objects.api.delete(f"{SYSTEM}/services/{INTERNAL}")
    wait_until(
        lambda: objects.api.get(f"{SYSTEM}/services/{INTERNAL}") is not None, what="it again", seconds=SECONDS
    )
    _leads_to(objects, "192.0.2.1", "192.0.2.2")
    wait_until(lambda: len(objects.active("cloud")) == 2, what="both in the status", seconds=SECONDS)
    wanted = {"c1": "192.0.2.1", "c2": "192.0.2.2"}
    wait_until(lambda: _hosts(objects) == wanted, what="the hosts file again", seconds=SECONDS)
    assert objects.api.get(path)["metadata"]["annotations"]["mine"] == "4"  # not ours, so not touched
    wait_until(lambda: leader.problems() == [], what="no problem to be left", seconds=SECONDS)
