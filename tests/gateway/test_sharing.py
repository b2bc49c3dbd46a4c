"""Gateway processes that share one registry in an API server: two, or one after the other."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from raven.kube.gateways import GATEWAYS
from raven.kube.resources import CERTIFICATE_REQUESTS, CONFIG_MAPS, NODES
from raven.pki.csr import make_csr
from raven.status import AgentSnapshot
from tests.daemons import AGENT, GATEWAY, Daemon, Loopback, Ran, command, echo, free_address, loopback, until
from tests.gateway.controllers.requests import request
from tests.gateway.controllers.scene import gateway, node, proxy, switches
from tests.kube.fake import FakeApi, status
from tests.kube.fake_server import kubeconfig, served
from tests.pki.material import make_key


@dataclass
class Cloud:
    """An API server and two gateways of one cluster, not running."""

    api: FakeApi
    config: Path
    first: Loopback
    second: Loopback

    def options(self) -> list[object]:
        return [
            "--kubernetes-enabled",
            "--kubernetes-kubeconfig",
            self.config,
            "--kubernetes-registry",
            "cluster",
        ]

    @asynccontextmanager
    async def both(self) -> AsyncIterator[tuple[Daemon, Daemon]]:
        async with self.first.gateway(*self.options()) as one, self.beside() as other:
            yield one, other

    def beside(self) -> AbstractAsyncContextManager[Daemon]:
        """The second, which follows nobody, so it is told its name."""
        return self.second.gateway(*self.options(), "--name", "gw-2", "--cluster", "test")

    def away(self) -> None:
        """The API server answers nobody, and has hung up on all."""
        self.api.fault = lambda request: status(503, "ServiceUnavailable", "away")
        self.api.cut()


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    api = FakeApi()
    first = loopback(tmp_path)
    second = Loopback(tmp_path, free_address(), free_address(), "gw-2")
    ends = []
    for name, one in (("gw-1", first), ("gw-2", second)):
        host, _, port = one.agents.rpartition(":")
        api.add(NODES, node(name, "cloud"))
        ends.append(proxy(name, public_ip=host, port=int(port)))
    api.add(GATEWAYS, gateway("cloud", *ends, expose="PublicIP", proxies=2))
    api.add(CONFIG_MAPS, switches())
    async with served(api) as url:
        yield Cloud(api, kubeconfig(tmp_path / "kubeconfig", url), first, second)


async def _join(through: Loopback, name: str, token: str, directory: str = "") -> Ran:
    return await command(
        AGENT,
        *("join", "--state-dir", through.directory / (directory or name), "--gateway", through.agents),
        *("--node", name, "--token", token),
    )


async def _up(agent: Daemon, *names: str, seconds: float = 40) -> AgentSnapshot:
    def good(now: AgentSnapshot) -> bool:
        return {one.name for one in now.uplinks if one.lane.state == "up"} == set(names)

    return await until(agent.agent_snapshot, good, f"tunnels to {names}", seconds=seconds)


async def _answers(through: Loopback, target: str) -> bytes:
    stream, head = await through.connect(target)
    await stream.aclose()
    return head.partition(b"\r\n")[0]


OK = b"HTTP/1.1 200 Connection established"


async def test_a_node_that_joined_at_one_is_served_by_both(cloud: Cloud) -> None:
    async with cloud.both() as (one, other), echo() as port:
        ran = await _join(cloud.second, "shop-1", await cloud.first.token())
        assert ran.code == 0, ran.err
        async with cloud.first.agent("shop-1", "--allow", f"node:{port}") as agent:
            await _up(agent, "gw-1", "gw-2")
            for through in (cloud.first, cloud.second):
                assert await _answers(through, f"shop-1:{port}") == OK
            await one.stop(signal.SIGKILL)
            assert await _answers(cloud.second, f"shop-1:{port}") == OK
            await other.connected("shop-1")


async def test_one_token_serves_one_node(cloud: Cloud) -> None:
    async with cloud.both():
        token = await cloud.first.token()
        ran: dict[str, Ran] = {}

        async def join(through: Loopback, name: str) -> None:
            ran[name] = await _join(through, name, token)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, cloud.first, "shop-1")
            nursery.start_soon(join, cloud.second, "shop-2")
        assert sorted(one.code for one in ran.values()) == [0, 1]
        assert "the token has been used" in next(one.err for one in ran.values() if one.code)


async def test_a_node_that_is_removed_at_one_is_cut_at_both(cloud: Cloud) -> None:
    async with cloud.both() as (one, other):
        await _join(cloud.first, "shop-1", await cloud.second.token())
        async with cloud.first.agent("shop-1") as agent:
            await _up(agent, "gw-1", "gw-2")
            removed = await command(GATEWAY, "node", "remove", "shop-1", "--state-dir", cloud.first.state)
            assert removed.code == 0, removed.err
            for daemon in (one, other):
                await until(partial(_names, daemon), lambda now: now == set(), "its end", seconds=5)
            await _up(agent)
            await other.refused("node-unknown")


async def _names(daemon: Daemon) -> set[str]:
    return {node.name for node in (await daemon.gateway_snapshot()).nodes}


async def test_without_the_api_server_all_go_on_and_nobody_joins(cloud: Cloud) -> None:
    async with cloud.first.gateway(*cloud.options()) as one, echo() as port:
        async with cloud.beside() as other:
            await _join(cloud.first, "shop-1", await cloud.first.token())
            token = await cloud.first.token()
            async with cloud.first.agent("shop-1", "--allow", f"node:{port}") as agent:
                await _up(agent, "gw-1", "gw-2")
                cloud.away()
                await other.stop()
                async with cloud.beside() as again:
                    await _up(agent, "gw-1", "gw-2")
                    for through in (cloud.first, cloud.second):
                        assert await _answers(through, f"shop-1:{port}") == OK
                    told = await until(
                        again.gateway_snapshot,
                        lambda now: any("joins, renewals and commands wait" in one for one in now.problems),
                        "a problem",
                    )
                    assert {node.name for node in told.nodes} == {"shop-1"}
                    refused = await _join(cloud.second, "shop-2", token)
                    assert refused.code == 1
                    assert "cannot be reached from this gateway now" in refused.err
                    wanted = await command(GATEWAY, "token", "create", "--state-dir", cloud.first.state)
                    assert wanted.code == 1
                    assert "the registry in Kubernetes" in wanted.err
                    cloud.api.fault = None
                    ran = await _join(cloud.second, "shop-2", token)
                    assert ran.code == 0, ran.err
        await one.stop()


async def test_the_ca_is_replaced_once_for_both(cloud: Cloud) -> None:
    async with cloud.both() as (one, other):
        before = await cloud.first.token()
        await _join(cloud.first, "shop-1", before)
        async with cloud.first.agent("shop-1") as agent:
            await _up(agent, "gw-1", "gw-2")
            rotated = await command(GATEWAY, "ca", "rotate", "--state-dir", cloud.second.state)
            assert rotated.code == 0, rotated.err
            again = await command(GATEWAY, "ca", "rotate", "--state-dir", cloud.first.state)
            assert "still trusted" in again.err
            for through in (cloud.first, cloud.second):
                await _pinned(through, other=before)
            await until(partial(_renewed, cloud.first), lambda text: text, "the agent to take the new CA")
            assert (await one.node("shop-1")).connected
            assert (await other.node("shop-1")).connected
            retired = await command(GATEWAY, "ca", "retire", "--state-dir", cloud.first.state)
            assert retired.code == 0, retired.err
            for through in (cloud.first, cloud.second):
                await _overlap_over(through.state / "previous")
        ran = await _join(cloud.second, "shop-2", await cloud.first.token())
        assert ran.code == 0, ran.err


async def _overlap_over(previous: Path) -> None:
    await until(trio.Path(previous).exists, lambda there: not there, "the overlap to end")


async def _pinned(through: Loopback, *, other: str) -> None:
    """Returns once tokens made at this gateway are for another CA than that token."""

    async def pin() -> str:
        return (await through.token()).rpartition(".")[2]

    await until(pin, lambda now: now != other.rpartition(".")[2], "the new CA")


async def _renewed(net: Loopback) -> bool:
    """Whether the agent of shop-1 trusts the CA that the gateways have now, and has renewed under it."""
    directory = net.directory / "shop-1"
    ca = x509.load_pem_x509_certificate((net.state / "ca.crt").read_bytes())
    leaf = x509.load_pem_x509_certificate((directory / "node.crt").read_bytes())
    try:
        leaf.verify_directly_issued_by(ca)
    except InvalidSignature:
        return False
    return True


async def test_a_gateway_takes_its_own_ca_and_nodes_into_the_cluster(cloud: Cloud) -> None:
    async with cloud.first.gateway() as alone:
        await cloud.first.join("shop-1")
        unused = await cloud.first.token()
        async with cloud.first.agent("shop-1") as agent:
            await _up(agent, "gw-1")
            await alone.stop()
            async with cloud.both():
                await _up(agent, "gw-1", "gw-2")
                ran = await _join(cloud.second, "shop-2", unused)
                assert ran.code == 0, ran.err


async def test_a_gateway_with_another_ca_does_not_give_it_up(cloud: Cloud) -> None:
    async with cloud.second.gateway() as alone:
        await alone.stop()
    async with cloud.first.gateway(*cloud.options()):
        ran = await command(GATEWAY, "run", *cloud.second.options(), *cloud.options())
    assert ran.code == 1
    assert "its CA is another than that of the Secret kube-system/raven-ca" in ran.err


async def test_a_certificate_that_the_leader_signs_counts_at_all_gateways(cloud: Cloud) -> None:
    async with cloud.both() as (one, other):
        asked = request(make_csr(make_key(), "shop-9"), "system:node:shop-9", "system:nodes")
        name = cloud.api.add(CERTIFICATE_REQUESTS, asked)["metadata"]["name"]

        async def certificate() -> str:
            status = cloud.api.objects["certificatesigningrequests", name].get("status", {})
            return str(status.get("certificate", ""))

        await until(certificate, bool, "the leader to sign", seconds=40)
        for daemon in (one, other):
            await until(partial(_names, daemon), lambda now: now == {"shop-9"}, "the node", seconds=5)
