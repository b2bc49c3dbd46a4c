"""A gateway process beside an API server: what Gateways say reaches its status, and the other way round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.kubernetes import absent
from raven.kube.gateways import GATEWAYS
from raven.kube.resources import CONFIG_MAPS, NODES
from raven.registry.interface import NodeRecord
from raven.topology.election import Health
from tests.daemons import Loopback, loopback, until
from tests.gateway.controllers.scene import gateway, node, proxy, switches, tunnel
from tests.kube.fake import FakeApi, status
from tests.kube.fake_server import kubeconfig, served


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


async def test_health_goes_up_and_gateways_come_down(net: Loopback, tmp_path: Path) -> None:
    api = FakeApi()
    api.add(NODES, node("shop-1", "shop"))
    api.add(NODES, node("shop-2", "shop"))
    api.add(NODES, node("c1", "cloud"))
    api.add(GATEWAYS, gateway("shop", proxy("shop-1"), proxy("shop-2"), proxies=1))
    host, _, port = net.agents.rpartition(":")
    public = proxy("c1", public_ip=host, port=int(port))
    api.add(GATEWAYS, gateway("cloud", public, tunnel("c1"), expose="PublicIP", proxies=1))
    api.add(CONFIG_MAPS, switches())

    async def active() -> list[str]:
        ends = api.objects["gateways", "shop"].get("status", {}).get("activeEndpoints", [])
        return [one["nodeName"] for one in ends]

    async with served(api) as url:
        config = kubeconfig(tmp_path / "kubeconfig", url)
        async with net.gateway("--kubernetes-enabled", "--kubernetes-kubeconfig", config) as daemon:
            await net.join("shop-1")
            await net.join("shop-2")
            async with net.agent("shop-2") as agent:
                await daemon.connected("shop-2")
                # The first in the specification is shop-1, which has no tunnel.
                await until(active, lambda nodes: nodes == ["shop-2"], "the election", seconds=40)
                uplinks = (await agent.agent_snapshot()).uplinks
                assert [uplink.lane.state for uplink in uplinks] == ["up"]
                api.add(GATEWAYS, {"metadata": {"name": "old"}, "spec": {"endpoints": [{"publicIP": ""}]}})

                async def problems() -> list[str]:
                    return (await daemon.gateway_snapshot()).problems

                await until(
                    problems,
                    lambda told: any("Gateway old cannot be read" in one for one in told),
                    "a Gateway without the node of its endpoint",
                    seconds=40,
                )
                api.fault = lambda request: status(503, "ServiceUnavailable", "away")
                api.cut()
                await until(
                    problems, lambda told: any("away" in one for one in told), "a problem", seconds=40
                )
                assert (await daemon.node("shop-2")).stream_lane == "up"
    assert json.loads((net.state / "kubernetes.json").read_text())["carried"].keys() == {
        "shop-1",
        "shop-2",
        "c1",
    }


@pytest.mark.parametrize(
    ("created", "seen", "up", "age"),
    [
        (0.0, 900.0, 500.0, 100.0),
        (0.0, 900.0, 3.0, 3.0),  # this gateway has only just started
        (995.0, None, 500.0, 5.0),  # the node has only just joined
        (0.0, 2000.0, 500.0, 0.0),  # a clock that was set back
    ],
)
def test_how_long_a_node_is_absent(created: float, seen: float | None, up: float, age: float) -> None:
    record = NodeRecord(
        name="shop-1",
        created=created,
        last_seen=seen,
        public_key=None,
        pod_cidrs=(),
        software="",
        certificate_serial="01",
    )
    assert absent(record, now=1000.0, up=up) == Health(False, age)
