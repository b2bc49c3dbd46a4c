"""The controllers as a whole, on the fake API server in virtual time: what follows from what, and faults."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from raven.kube.conventions import INTERNAL_SERVICE
from raven.kube.gateways import GATEWAYS, GATEWAYS_V1ALPHA1
from raven.kube.objects import Meta
from raven.kube.resources import SLICES, EndpointConditions, EndpointSlice, SliceEndpoint
from raven.topology.election import Health
from tests.gateway.controllers.scene import CLOUD, EDGE, Scene, gateway, node, proxy, switches, tunnel


async def test_a_site_gets_its_status(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    async with scene.running() as cluster:
        assert scene.active("shop") == [("e1", "tunnel")]
        assert [one["subnets"] for one in scene.status("shop")["nodes"]] == [["10.1.0.0/24"], ["10.1.1.0/24"]]
        assert scene.condition("shop", "Ready")["status"] == "True"
        assert scene.status("shop")["observedGeneration"] == 1
        assert ("ActiveEndpointElected", "tunnel endpoint on node e1") in scene.events()
        assert cluster.problems() == []


async def test_nothing_changes_when_nothing_changed(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE, *CLOUD)
    async with scene.running():
        sent, asked = len(scene.writes()), len(scene.api.requests)
        scene.api.change("nodes", "e1", {"status": {"heartbeat": 1}})
        await trio.sleep(3600)
        assert len(scene.writes()) == sent
        assert (len(scene.api.requests) - asked) / 3600 < 0.6  # the Lease every two seconds, and watches


async def test_a_node_that_is_not_ready_loses_its_place(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    async with scene.running():
        conditions = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
        scene.api.change("nodes", "e1", conditions)
        await scene.settle()
        assert scene.active("shop") == [("e2", "tunnel")]
        assert ("ActiveEndpointLost", "tunnel endpoint on node e1 is not active any more") in scene.events()
        scene.api.change("nodes", "e1", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        await scene.settle()
        assert scene.active("shop") == [("e2", "tunnel")]  # the incumbent stays


async def test_a_tunnel_that_is_down_loses_its_place(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    async with scene.running():
        scene.health["e1", "tunnel"] = Health(False, 3.0)
        await scene.settle()
        assert scene.active("shop") == [("e1", "tunnel")]
        scene.health["e1", "tunnel"] = Health(False, 30.0)
        await scene.settle()
        assert scene.active("shop") == [("e2", "tunnel")]


async def test_a_site_without_a_tunnel_says_so_and_since_when(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    async with scene.running():
        assert "has not joined" in scene.condition("shop", "Connected")["message"]
        for node in ("e1", "e2"):
            scene.health[node, "tunnel"] = Health(True, 0.0)
        await scene.settle()
        connected = scene.condition("shop", "Connected")
        assert connected["status"] == "True"
        for node in ("e1", "e2"):
            scene.health[node, "tunnel"] = Health(False, 30.0)
        await scene.settle()
        lost = scene.condition("shop", "Connected")
        assert (lost["status"], lost["message"]) == ("False", "no packets to node e1")
        assert lost["lastTransitionTime"] > connected["lastTransitionTime"]
        assert ("NoTunnel", "no packets to node e1") in scene.events()
        sent = len(scene.writes())
        for age in range(31, 600):  # what grows is not written
            scene.health["e1", "tunnel"] = Health(False, float(age))
            await trio.sleep(1)
        assert len(scene.writes()) == sent


async def test_a_node_that_moves_leaves_one_site_for_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene(*EDGE, gateway("depot", tunnel("e1"), tunnels=1))
    async with scene.running():
        assert "in Gateway shop by its label" in scene.condition("depot", "Accepted")["message"]
        assert scene.active("depot") == []
        scene.api.change("nodes", "e1", {"metadata": {"labels": {"raven.openyurt.io/gateway": "depot"}}})
        await scene.settle()
        assert (scene.active("depot"), scene.active("shop")) == ([("e1", "tunnel")], [("e2", "tunnel")])


async def test_a_node_that_is_not_there_is_named(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(gateway("shop", tunnel("ghost"), tunnels=1))
    async with scene.running():
        accepted = scene.condition("shop", "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "Problems")
        assert accepted["message"] == "endpoints name node ghost, which the cluster does not have"
        scene.add(node("ghost", "shop"))
        await scene.settle()
        assert scene.active("shop") == [("ghost", "tunnel")]
        assert scene.condition("shop", "Accepted")["status"] == "True"


async def test_one_public_port_for_two(autojump_clock: trio.testing.MockClock) -> None:
    older = gateway("older", tunnel("a", public_ip="198.51.100.1"), expose="PublicIP", tunnels=1)
    younger = gateway(
        "younger",
        tunnel("b", public_ip="198.51.100.1"),
        expose="PublicIP",
        tunnels=1,
        created="2026-02-01T00:00:00Z",
    )
    scene = Scene(node("a", "older"), node("b", "younger"), younger, older)
    async with scene.running():
        assert (scene.active("older"), scene.active("younger")) == ([("a", "tunnel")], [])
        assert "belongs to Gateway older" in scene.condition("younger", "Accepted")["message"]
        scene.api.remove("gateways", "older")
        await scene.settle()
        assert scene.active("younger") == [("b", "tunnel")]


async def test_a_node_changes_its_address_and_pod_network(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE, *CLOUD)
    async with scene.running():
        scene.api.change(
            "nodes",
            "e1",
            {
                "spec": {"podCIDRs": ["10.9.0.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]},
            },
        )
        moved = {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}}
        scene.api.change("nodes", "c1", moved)
        await scene.settle()
        assert scene.status("shop")["nodes"][0] == {
            "nodeName": "e1",
            "privateIP": "10.0.0.9",
            "subnets": ["10.9.0.0/24"],
        }
        assert scene.addresses() == ["192.0.2.9", "192.0.2.2"]


async def test_the_internal_service_and_the_hosts_file(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE, *CLOUD, node("other", address="192.0.2.7"))
    async with scene.running():
        service = scene.api.objects["services", f"kube-system/{INTERNAL_SERVICE}"]
        assert [(one["name"], one["port"], one["targetPort"]) for one in service["spec"]["ports"]] == [
            ("https-10250", 10250, 10263),
            ("http-10255", 10255, 10264),
        ]
        assert scene.addresses() == ["192.0.2.1", "192.0.2.2"]
        text = scene.api.objects["configmaps", "kube-system/edge-tunnel-nodes"]["data"]["tunnel-nodes"]
        ip = service["spec"]["clusterIP"]
        wanted = [f"{ip}\te1", f"{ip}\te2", "192.0.2.1\tc1", "192.0.2.2\tc2", "192.0.2.7\tother"]
        assert text.split("\n") == sorted(wanted)
        assert all(message for _, message in scene.events())  # what is not known is not told as an Event


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_gateway_whose_pod_is_not_ready_leaves_the_service_at_once(
    replicas: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Whether there is another to elect or not."""
    scene = Scene(*CLOUD)
    pods = EndpointSlice(
        metadata=Meta(
            name="raven-gateway-x",
            namespace="kube-system",
            labels={"kubernetes.io/service-name": "raven-gateway"},
        ),
        address_type="IPv4",
        endpoints=tuple(
            SliceEndpoint(addresses=(f"192.0.2.{number}",), node_name=f"c{number}", conditions=ready)
            for number, ready in ((1, EndpointConditions(ready=True)), (2, EndpointConditions(ready=True)))
        ),
    )
    scene.api.add(SLICES, pods)
    scene.api.change("gateways", "cloud", {"spec": {"proxyConfig": {"Replicas": replicas}}})
    async with scene.running():
        assert scene.addresses() == ["192.0.2.1", "192.0.2.2"][:replicas]
        ends: list[Any] = scene.api.objects["endpointslices", "kube-system/raven-gateway-x"]["endpoints"]
        dead = [{**ends[0], "conditions": {"ready": False}}, ends[1]]
        scene.api.change("endpointslices", "kube-system/raven-gateway-x", {"endpoints": dead})
        await scene.settle(1.0)
        assert scene.addresses() == ["192.0.2.2"]


async def test_switched_off_it_takes_away_what_it_made(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE, *CLOUD)
    async with scene.running():
        assert scene.active("cloud")
        off = {"data": {"enable-l7-proxy": "FALSE", "enable-l3-tunnel": "false"}}
        scene.api.change("configmaps", "kube-system/raven-cfg", off)
        await scene.settle()
        assert (scene.active("cloud"), scene.active("shop")) == ([], [])
        assert ("services", f"kube-system/{INTERNAL_SERVICE}") not in scene.api.objects
        assert not scene.api.all("endpointslices")
        text = scene.api.objects["configmaps", "kube-system/edge-tunnel-nodes"]["data"]["tunnel-nodes"]
        assert "10.0.0.1\te1" in text


async def test_load_balancers(autojump_clock: trio.testing.MockClock) -> None:
    lb = gateway("cloud", proxy("c1", port=443), tunnel("c1"), expose="LoadBalancer", proxies=1, tunnels=1)
    scene = Scene(node("c1", "cloud", address="192.0.2.1"), lb)
    async with scene.running():
        services = scene.api.all("services")
        exposing = {one["metadata"]["labels"].get("raven.openyurt.io/gateway-type"): one for one in services}
        proxied, tunnelled = exposing["proxy"], exposing["tunnel"]
        (port,) = proxied["spec"]["ports"]
        assert (port["port"], port["targetPort"], port.get("protocol", "TCP")) == (443, 10262, "TCP")
        assert tunnelled["spec"]["ports"][0]["protocol"] == "UDP"
        assert proxied["metadata"]["annotations"] == {"svc.openyurt.io/discard": "true"}
        key = f"kube-system/{proxied['metadata']['name']}"
        given = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}}
        scene.api.change("services", key, {**given, "spec": {"ports": [{**port, "nodePort": 30123}]}})
        await scene.settle()
        active = {one["type"]: one for one in scene.status("cloud")["activeEndpoints"]}
        assert active["proxy"]["publicIP"] == "203.0.113.9"
        assert scene.api.objects["services", key]["spec"]["ports"][0]["nodePort"] == 30123  # given, so kept
        scene.api.remove("gateways", "cloud")
        await scene.settle()
        assert [one["metadata"]["name"] for one in scene.api.all("services")] == []
        assert scene.api.all("endpointslices") == []


async def test_v1alpha1_alone_is_read_and_never_written(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(node("e1", "old"))
    del scene.api.served["/apis/raven.openyurt.io/v1beta1"]
    scene.api.served["/apis/raven.openyurt.io/v1alpha1"] = ["gateways"]
    scene.api.add(
        GATEWAYS_V1ALPHA1, {"metadata": {"name": "old"}, "spec": {"endpoints": [{"nodeName": "e1"}]}}
    )
    async with scene.running() as cluster:
        assert cluster.view is not None
        assert [one.type for one in cluster.view.gateways.objects["old"].spec.endpoints] == ["tunnel"]
        assert not any("/gateways" in line for line in scene.writes())
        assert any("v1alpha1 only" in problem for problem in cluster.problems())


async def test_a_crd_that_comes_later_and_one_that_is_newer(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    scene.api.served["/apis/raven.openyurt.io/v1"] = scene.api.served.pop("/apis/raven.openyurt.io/v1beta1")
    async with scene.running() as cluster:
        (problem,) = cluster.problems()
        assert "no gateways of raven.openyurt.io/v1beta1 or v1alpha1" in problem
        scene.api.served["/apis/raven.openyurt.io/v1beta1"] = ["gateways"]
        await trio.sleep(60)
        assert scene.active("shop") == [("e1", "tunnel")]


async def test_fields_of_a_newer_version_survive(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(node("e1", "shop"))
    scene.api.add(
        GATEWAYS,
        {
            "metadata": {"name": "shop"},
            "spec": {
                "tunnelConfig": {"Replicas": 1, "protocol": "quic"},
                "endpoints": [{"nodeName": "e1", "type": "tunnel", "mtu": 1300}],
            },
            "status": {"ofTomorrow": {"x": 1}},
        },
    )
    async with scene.running():
        assert scene.active("shop") == [("e1", "tunnel")]
        assert scene.status("shop")["ofTomorrow"] == {"x": 1}
        assert scene.api.objects["gateways", "shop"]["spec"]["tunnelConfig"]["protocol"] == "quic"


async def test_without_the_switches_nothing_is_active(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    scene.api.remove("configmaps", "kube-system/raven-cfg")
    async with scene.running():
        assert scene.active("shop") == []
        assert scene.status("shop")["nodes"]
        scene.add(switches(proxy=False))
        await scene.settle()
        assert scene.active("shop") == [("e1", "tunnel")]
