"""Renewal between real daemons: certificates made long ago, agents whose clocks are wrong."""

import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from agent.renewal import Renewal
from raven.control.messages import VERSION, GatewayHello
from raven.errors import PeerError
from raven.net.tls import Peer
from raven.pki.certificate import Leaf
from raven.registry.agent_state import open_agent
from tests.aged import DAY, past
from tests.agent.renewals import down, leaf_of, renewed
from tests.daemons import AGENT, GATEWAY, Daemon, Loopback, command, loopback, running, until

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


def _joined(net: Loopback, *, days_ago: float) -> Leaf:
    """Node shop-1, which joined then; its certificate."""
    with past(net.state, now=time.time() - days_ago * DAY) as then:
        then.join(net.directory / "shop-1", "shop-1", net.agents)
    return leaf_of(net)


@asynccontextmanager
async def _agent_at(net: Loopback, clock: str) -> AsyncIterator[Daemon]:
    """The agent of shop-1 on a machine whose clock started at `clock`."""
    environment = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"@{clock}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    options = ["--state-dir", net.directory / "shop-1", "--no-packets"]
    async with running(AGENT, net.directory, *options, name="agent", environment=environment) as agent:
        await agent.notified("READY=1")
        yield agent


def _telling(now: float) -> GatewayHello:
    return GatewayHello(version=VERSION, gateway="gw-1", cluster="test", software="", now=now)


@pytest.mark.parametrize("days", [1, 29, 89])
def test_the_time_is_what_the_gateway_tells(net: Loopback, days: float) -> None:
    issued = 1_000_000_000.0  # an agent without a battery need not be in this century
    renewal, gateway = _judge(net, issued)
    renewal.check_time(gateway, _telling(issued + days * DAY))
    (problem,) = renewal.problems()
    assert "years ahead of the gateway's" in problem


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (-1, "our certificate was issued after 2001-09-09"),
        (91, "by its own clock it is 2001-12-09"),
        (-11574, "it says that it is 1970-01-01"),
    ],
)
def test_a_gateway_is_not_believed_everything(net: Loopback, days: float, words: str) -> None:
    """A stolen key of a gateway is good until its certificate ends, and no lie makes it later good again."""
    renewal, gateway = _judge(net, 1_000_000_000.0)
    with pytest.raises(PeerError, match=words) as caught:
        renewal.check_time(gateway, _telling(max(0.0, 1_000_000_000.0 + days * DAY)))
    assert caught.value.reason == "certificate-time"


def _judge(net: Loopback, issued: float) -> tuple[Renewal, Peer]:
    """The judge of node shop-1, which joined when the gateway's certificate was issued as well."""
    with past(net.state, now=issued) as then:
        then.join(net.directory / "shop-1", "shop-1", net.agents)
        leaf = then.state.leaf
    state = open_agent(net.directory / "shop-1", now=issued)
    state.close()
    peer = Peer(leaf.identity, leaf.serial, leaf.not_before, leaf.not_after)
    return Renewal(state), peer


async def test_a_certificate_is_renewed_at_two_thirds_of_its_life(net: Loopback) -> None:
    old = _joined(net, days_ago=61)
    shutil.copytree(net.directory / "shop-1", net.directory / "stolen")
    async with net.gateway() as gateway, net.agent("shop-1") as agent:
        new = await renewed(net, old)
        assert new.identity == old.identity
        assert new.key_hash != old.key_hash
        assert new.not_after > time.time() + 89 * DAY
        # On the tunnel there is, which stays.
        await until(agent.agent_snapshot, lambda now: now.uplinks[0].lane.state == "up", "the tunnel")
        assert (await agent.agent_snapshot()).problems == []
        assert (await agent.ping("gw-1")).stream_rtt_ms is not None
        assert agent.log.read_text().count("connected") == 1
        assert "cryptography" not in agent.mapped()
        assert not (net.directory / "shop-1" / ".renewing").exists()
        # The old one is good until the new one was used: its answer might have got lost.
        assert await agent.stop() == 0
        async with net.agent("shop-1"):
            await gateway.connected("shop-1")
        async with net.agent("stolen") as thief:
            assert "has renewed this certificate" in await down(thief, "renewed")
        assert leaf_of(net) == new  # and is not renewed again
        assert await gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text() + agent.log.read_text()


async def test_a_renewed_tunnel_outlives_the_old_certificate_and_a_removed_node_does_not(
    net: Loopback,
) -> None:
    old = _joined(net, days_ago=61)
    async with net.gateway() as gateway, net.agent("shop-1") as agent:
        await renewed(net, old)
        await gateway.connected("shop-1")
        ran = await command(GATEWAY, "node", "remove", "shop-1", "--state-dir", net.state)
        assert ran.code == 0
        with trio.fail_after(2):
            await down(agent, "has to join again")


async def test_an_expired_certificate_is_good_for_renewing_itself(net: Loopback) -> None:
    old = _joined(net, days_ago=100)
    async with net.gateway() as gateway, net.agent("shop-1") as agent:
        await gateway.connected("shop-1")
        assert leaf_of(net).serial != old.serial
        await until(agent.agent_snapshot, lambda now: now.uplinks[0].lane.state == "up", "the tunnel")
        assert (await agent.agent_snapshot()).problems == []
    assert "Traceback" not in gateway.log.read_text() + agent.log.read_text()


async def test_too_long_after_its_end_the_node_joins_again(net: Loopback) -> None:
    old = _joined(net, days_ago=90 + 30 + 1)
    async with net.gateway() as gateway:
        async with net.agent("shop-1") as agent:
            detail = await down(agent, "expired")
            assert "more than 30 days ago" in detail
            assert "raven-gateway token create --node shop-1" in detail
            await gateway.refused("certificate-expired")
        assert leaf_of(net) == old
        ran = await command(
            AGENT,
            *("join", "--state-dir", net.directory / "shop-1", "--gateway", net.agents, "--force"),
            *("--node", "shop-1", "--token", await net.token("--node", "shop-1")),
        )
        assert ran.code == 0, ran.err
        async with net.agent("shop-1"):
            await gateway.connected("shop-1")


async def test_a_renewal_that_fails_leaves_the_tunnel_and_a_sentence(net: Loopback) -> None:
    _joined(net, days_ago=61)
    pending = net.directory / "shop-1" / ".renewing"
    pending.write_text("in the way")
    async with net.gateway() as gateway, net.agent("shop-1") as agent:
        await gateway.connected("shop-1")
        snapshot = await until(agent.agent_snapshot, lambda now: bool(now.problems), "a problem")
        assert "the certificate was not renewed" in snapshot.problems[0]
        assert str(pending) in snapshot.problems[0]
        assert (await gateway.node("shop-1")).connected
    assert "Traceback" not in agent.log.read_text()


@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed")
@pytest.mark.parametrize(
    ("clock", "behind"), [("1970-01-02 00:00:00", "behind"), ("2050-06-01 00:00:00", "ahead of")]
)
@pytest.mark.parametrize("days_ago", [0, 61, 100])
async def test_a_wrong_clock_keeps_nobody_out(
    net: Loopback, clock: str, behind: str, days_ago: float
) -> None:
    old = _joined(net, days_ago=days_ago)
    async with net.gateway() as gateway, _agent_at(net, clock) as agent:
        await gateway.connected("shop-1")
        if days_ago:
            await renewed(net, old)
        problems = (
            await until(agent.agent_snapshot, lambda now: bool(now.problems), "a word about the clock")
        ).problems
        assert len(problems) == 1, problems
        assert "this machine's clock is" in problems[0]
        assert f"years {behind} the gateway's" in problems[0]
    assert "Traceback" not in agent.log.read_text()
