"""What Nodes and Gateways say becomes the status of a site; nodes and endpoints come, go and move."""

from typing import Any

from tests.e2e_kube.controllers.objects import (
    GATEWAYS,
    NODES,
    SECONDS,
    TUNNELS,
    KubeGateway,
    Objects,
    tunnel,
)
from tests.lab.waiting import wait_until

DOWN = 40.0  # seconds: a tunnel counts as down 10 s after it was last heard, then a site is looked at again


def _active(objects: Objects, site: str, *wanted: tuple[str, str], seconds: float = SECONDS) -> None:
    wait_until(
        lambda: objects.active(site) == list(wanted),
        what=f"{site} to have {wanted} active, not {objects.status(site)}",
        seconds=seconds,
    )


def _nodes(objects: Objects, site: str) -> list[tuple[str, str, list[str]]]:
    found: list[dict[str, Any]] = objects.status(site).get("nodes") or []
    return [(one["nodeName"], one["privateIP"], one["subnets"]) for one in found]


def _shop(objects: Objects) -> None:
    objects.node("e1", "shop", address="10.0.0.1", cidrs=("10.1.0.0/24",))
    objects.node("e2", "shop", address="10.0.0.2", cidrs=("10.1.1.0/24",))
    objects.site("shop", tunnel("e1", underNAT=True), tunnel("e2", underNAT=True), **TUNNELS)


def test_a_site_has_the_nodes_of_its_label_and_their_networks(objects: Objects, leader: KubeGateway) -> None:
    _shop(objects)
    _active(objects, "shop", ("e1", "tunnel"))
    assert _nodes(objects, "shop") == [
        ("e1", "10.0.0.1", ["10.1.0.0/24"]),
        ("e2", "10.0.0.2", ["10.1.1.0/24"]),
    ]
    assert objects.condition("shop", "Ready")["status"] == "True"
    assert objects.status("shop")["observedGeneration"] == 1
    objects.label("e1", None)
    _active(objects, "shop", ("e2", "tunnel"))
    assert [name for name, _, _ in _nodes(objects, "shop")] == ["e2"]
    told = "endpoints name node e1, which is in no Gateway: it lacks the label raven.openyurt.io/gateway"
    assert objects.condition("shop", "Accepted")["message"] == told
    wait_until(
        lambda: (
            {reason for reason, _ in objects.events("shop")}
            >= {"ActiveEndpointElected", "ActiveEndpointLost", "Problems"}
        ),
        what="Events of all that",
        seconds=SECONDS,
    )
    assert ("ActiveEndpointLost", "tunnel endpoint on node e1 is not active any more") in objects.events(
        "shop"
    )


def test_calico_tells_the_networks_where_calico_is(objects: Objects, leader: KubeGateway) -> None:
    calico = {"projectcalico.org/IPv4Address": "10.0.0.1/24"}
    objects.node("e1", "shop", address="10.0.0.1", cidrs=("10.1.0.0/24",), annotations=calico)
    objects.site("shop", tunnel("e1"), **TUNNELS)
    wait_until(
        lambda: _nodes(objects, "shop") == [("e1", "10.0.0.1", [])], what="no networks yet", seconds=SECONDS
    )
    path = "/apis/crd.projectcalico.org/v1/blockaffinities"

    def block(cidr: str, state: str = "confirmed") -> str:
        name = f"e1-{cidr.replace('.', '-').replace('/', '-')}"
        spec = {"node": "e1", "cidr": cidr, "state": state, "deleted": "false"}
        kind = {"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity"}
        objects.api.create(path, {**kind, "metadata": {"name": name}, "spec": spec})
        return f"{path}/{name}"

    first, second = block("10.7.0.64/26"), block("10.7.0.0/26")
    pending = block("10.8.0.0/26", "pending")

    def carries(*networks: str) -> None:
        wait_until(
            lambda: _nodes(objects, "shop") == [("e1", "10.0.0.1", list(networks))],
            what=f"{networks}, not {_nodes(objects, 'shop')}",
            seconds=SECONDS,
        )

    carries("10.7.0.0/26", "10.7.0.64/26")
    objects.api.merge(pending, {"spec": {"state": "confirmed"}})
    objects.api.merge(second, {"spec": {"deleted": "true"}})
    objects.api.delete(first)
    carries("10.8.0.0/26")


def test_readiness_elects_and_the_incumbent_stays(objects: Objects, leader: KubeGateway) -> None:
    _shop(objects)
    _active(objects, "shop", ("e1", "tunnel"))
    objects.set_ready("e1", False)
    _active(objects, "shop", ("e2", "tunnel"))
    objects.set_ready("e1", True)
    objects.api.merge(f"{GATEWAYS}/shop", {"metadata": {"annotations": {"touched": "yes"}}})
    objects.node("e3", "shop")
    wait_until(lambda: len(_nodes(objects, "shop")) == 3, what="the new node in the status", seconds=SECONDS)
    assert objects.active("shop") == [("e2", "tunnel")]
    for one in ("e1", "e2"):
        objects.set_ready(one, False)
    _active(objects, "shop")
    told = objects.condition("shop", "Ready")
    assert (told["status"], told["reason"]) == ("False", "NoEndpoint")
    assert told["message"] == "0 of 1 endpoints of type tunnel active; not ready, or not in this site: e1 e2"


def test_a_tunnel_that_is_down_loses_its_place_for_good(objects: Objects, leader: KubeGateway) -> None:
    """The nodes stay Ready all the while: only what the gateway measures of their tunnels tells."""
    _shop(objects)
    _active(objects, "shop", ("e1", "tunnel"))
    first, second = leader.agent("e1"), leader.agent("e2")
    try:
        wait_until(lambda: leader.connected() == {"e1", "e2"}, what="both tunnels", seconds=SECONDS)
        assert objects.active("shop") == [("e1", "tunnel")]
        first.kill()
        _active(objects, "shop", ("e2", "tunnel"), seconds=DOWN)
        first = leader.agent("e1")
        wait_until(lambda: leader.connected() == {"e1", "e2"}, what="both tunnels again", seconds=SECONDS)
        objects.api.merge(f"{NODES}/e1", {"spec": {"unschedulable": True}})  # has the site looked at again
        assert objects.active("shop") == [("e2", "tunnel")]
    finally:
        first.stop()
        second.stop()


def test_a_node_that_changes_its_address_and_its_network(objects: Objects, leader: KubeGateway) -> None:
    """Its networks are given once, so a node with others is one that was deleted and came back."""
    _shop(objects)
    _active(objects, "shop", ("e1", "tunnel"))
    moved = {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}
    objects.api.merge(f"{NODES}/e1/status", {"status": moved})
    wait_until(lambda: _nodes(objects, "shop")[0][1] == "10.0.0.9", what="the new address", seconds=SECONDS)
    objects.api.delete(f"{NODES}/e1")
    objects.node("e1", "shop", address="10.0.0.9", cidrs=("10.9.0.0/24",))
    wanted = ("e1", "10.0.0.9", ["10.9.0.0/24"])
    wait_until(lambda: wanted in _nodes(objects, "shop"), what="the new network", seconds=SECONDS)


def test_a_gateway_that_names_a_node_that_is_not_there(objects: Objects, leader: KubeGateway) -> None:
    objects.site("shop", tunnel("ghost"), **TUNNELS)
    told = "endpoints name node ghost, which the cluster does not have"
    wait_until(
        lambda: objects.condition("shop", "Accepted").get("message") == told, what=told, seconds=SECONDS
    )
    wait_until(lambda: ("Problems", told) in objects.events("shop"), what="an Event", seconds=SECONDS)
    objects.node("ghost", "shop")
    _active(objects, "shop", ("ghost", "tunnel"))
    assert objects.condition("shop", "Accepted")["status"] == "True"


def test_one_node_for_two_gateways(objects: Objects, leader: KubeGateway) -> None:
    """The label decides, however many name it."""
    objects.node("e1", "shop")
    objects.site("shop", tunnel("e1"), **TUNNELS)
    objects.site("depot", tunnel("e1"), **TUNNELS)
    _active(objects, "shop", ("e1", "tunnel"))
    told = "endpoints name node e1, which is in Gateway shop by its label"
    wait_until(
        lambda: objects.condition("depot", "Accepted").get("message") == told, what=told, seconds=SECONDS
    )
    assert objects.active("depot") == []
    objects.label("e1", "depot")
    _active(objects, "depot", ("e1", "tunnel"))
    _active(objects, "shop")


def test_one_port_for_two_gateways(objects: Objects, leader: KubeGateway) -> None:
    """It belongs to the one that is older, until that one goes or wants another."""
    objects.node("a", "older")
    objects.node("b", "younger")
    public = {"exposeType": "PublicIP", **TUNNELS}
    objects.site("older", tunnel("a", publicIP="198.51.100.1"), **public)
    created = objects.api.get(f"{GATEWAYS}/older")["metadata"]["creationTimestamp"]
    objects.site("younger", tunnel("b", publicIP="198.51.100.1"), **public)
    # In the same second the name decides, and "older" comes first.
    assert objects.api.get(f"{GATEWAYS}/younger")["metadata"]["creationTimestamp"] >= created
    told = "198.51.100.1 port 4500 (tunnel) of node b belongs to Gateway older, which is older"
    wait_until(
        lambda: told in objects.condition("younger", "Accepted").get("message", ""),
        what=told,
        seconds=SECONDS,
    )
    _active(objects, "older", ("a", "tunnel"))
    assert objects.active("younger") == []
    objects.api.merge(f"{GATEWAYS}/older", {"spec": {"endpoints": [tunnel("a", publicIP="198.51.100.2")]}})
    _active(objects, "younger", ("b", "tunnel"))
    assert objects.condition("younger", "Accepted")["status"] == "True"


def test_what_was_written_as_v1alpha1_says_what_it_lacks(objects: Objects, leader: KubeGateway) -> None:
    """Its stored form has no number of active endpoints: v1alpha1 meant one."""
    objects.node("e1", "shop")
    body = {"apiVersion": "raven.openyurt.io/v1alpha1", "kind": "Gateway", "metadata": {"name": "shop"}}
    objects.api.create(
        GATEWAYS.replace("v1beta1", "v1alpha1"), {**body, "spec": {"endpoints": [{"nodeName": "e1"}]}}
    )
    wait_until(
        lambda: any("v1alpha1 wants" in said for _, said in objects.events("shop")),
        what="what it lacks to be told",
        seconds=SECONDS,
    )
    objects.api.merge(f"{GATEWAYS}/shop", {"spec": TUNNELS})
    wait_until(lambda: len(objects.active("shop")) == 1, what="it to be active", seconds=SECONDS)
