"""Two gateways without Kubernetes, as processes: one with the CA, one that follows it."""

import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from raven.status import AgentSnapshot
from tests.daemons import AGENT, GATEWAY, Daemon, Loopback, command, loopback, until


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


async def _up(agent: Daemon, *names: str, seconds: float = 20) -> AgentSnapshot:
    """The agent's snapshot once exactly the tunnels to these gateways are up."""

    def good(now: AgentSnapshot) -> bool:
        return {uplink.name for uplink in now.uplinks if uplink.lane.state == "up"} == set(names)

    return await until(agent.agent_snapshot, good, f"tunnels to {names}", seconds=seconds)


async def _reach(net: Loopback, target: str) -> bytes:
    """The first line of the answer to CONNECT through this gateway."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(net.oam.rpartition(":")[2]))
    async with stream:
        await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        with trio.fail_after(15):
            return bytes(await stream.receive_some()).partition(b"\r\n")[0]


async def _target(nursery: trio.Nursery) -> int:
    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                await stream.receive_some()

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def test_an_agent_reaches_both_and_any_of_them_reaches_it(net: Loopback) -> None:
    async with trio.open_nursery() as nursery, net.gateway() as first:
        port = await _target(nursery)
        await net.join("shop-1")
        other = await net.follower("gw-2")
        async with net.agent("shop-1", "--allow", f"node:{port}") as agent:
            await _up(agent, "gw-1")
            async with other.gateway() as second:
                # Told by the first gateway, while the tunnel is up.
                await _up(agent, "gw-1", "gw-2")
                for gateway in (net, other):
                    assert await _reach(gateway, f"shop-1:{port}") == b"HTTP/1.1 200 Connection established"
                # The first one goes; the second knows everybody by its copy, and a restart forgets nothing.
                await first.stop(signal.SIGKILL)
                assert await _reach(other, f"shop-1:{port}") == b"HTTP/1.1 200 Connection established"
                snapshot = await until(
                    second.gateway_snapshot,
                    lambda now: any("joins and renewals wait" in one for one in now.problems),
                    "the follower to say that its first gateway is away",
                )
                assert snapshot.name == "gw-2"
                await second.stop()
            async with other.gateway():
                await _up(agent, "gw-2")
                assert await _reach(other, f"shop-1:{port}") == b"HTTP/1.1 200 Connection established"
                # A restarted agent finds the second gateway by the list it kept.
                await agent.stop()
                async with net.agent("shop-1", "--allow", f"node:{port}") as again:
                    await _up(again, "gw-2")
        nursery.cancel_scope.cancel()


async def test_joins_through_a_follower_and_removals_reach_it(net: Loopback) -> None:
    async with net.gateway() as first:
        other = await net.follower("gw-2")
        async with other.gateway() as second:
            ran = await command(
                AGENT,
                *("join", "--state-dir", net.directory / "shop-1", "--gateway", other.agents),
                *("--node", "shop-1", "--token", await net.token()),
            )
            assert ran.code == 0, ran.err
            async with net.agent("shop-1") as agent:
                await _up(agent, "gw-1", "gw-2")
                for gateway in (first, second):
                    await gateway.connected("shop-1")
                removed = await command(GATEWAY, "node", "remove", "shop-1", "--state-dir", net.state)
                assert removed.code == 0, removed.err

                async def names() -> set[str]:
                    return {node.name for node in (await second.gateway_snapshot()).nodes}

                await until(names, lambda now: now == set(), "the follower to forget shop-1")
                await _up(agent)
                await second.refused("node-unknown")
        await first.stop(signal.SIGKILL)


async def test_a_removed_gateway_is_left_and_gets_no_copies(net: Loopback) -> None:
    async with net.gateway() as first:
        await net.join("shop-1")
        other = await net.follower("gw-2")
        async with other.gateway() as second, net.agent("shop-1") as agent:
            await _up(agent, "gw-1", "gw-2")
            ran = await command(GATEWAY, "gateway", "remove", "gw-2", "--state-dir", net.state)
            assert ran.code == 0, ran.err
            snapshot = await _up(agent, "gw-1")
            await until(
                agent.agent_snapshot, lambda now: len(now.uplinks) == 1, "the agent to leave gw-2", seconds=20
            )
            assert snapshot.uplinks[0].name == "gw-1"
            await first.refused("gateway-unknown")
            told = await until(second.gateway_snapshot, lambda now: bool(now.problems), "the sentence")
            assert "has not joined here, or was removed since" in " ".join(told.problems)


async def test_tokens_are_for_what_they_say(net: Loopback) -> None:
    async with net.gateway():
        node, gateway = await net.token(), await net.token("--gateway", "gw-2")
        ran = await command(
            AGENT,
            *("join", "--state-dir", net.directory / "x", "--gateway", net.agents),
            *("--node", "gw-2", "--token", gateway),
        )
        assert ran.code == 1
        assert "the token is for a gateway, and a node came with it" in ran.err
        for name, token, words in (
            ("gw-2", node, "the token is for a node, and a gateway came with it"),
            ("gw-3", gateway, "the token is for another gateway than gw-3"),
        ):
            ran = await command(
                GATEWAY,
                *("join", "--state-dir", net.directory / "y", "--gateway", net.agents, "--name", name),
                *("--advertise", "127.0.0.1:1", "--token", token),
            )
            assert ran.code == 1
            assert words in ran.err
        assert not (net.directory / "y" / "follower.json").exists()
        # The same directory and token get there in the end.
        join = ("join", "--state-dir", net.directory / "y", "--gateway", net.agents, "--name", "gw-2")
        ran = await command(GATEWAY, *join, "--advertise", "127.0.0.1:1", "--token", gateway)
        assert ran.code == 0, ran.err
        again = await command(GATEWAY, *join, "--advertise", "127.0.0.1:1", "--token", gateway)
        assert "already joined as gateway gw-2" in again.err
        for changes in (
            ("token", "create"),
            ("node", "remove", "x"),
            ("ca", "rotate"),
            ("gateway", "remove", "gw-1"),
        ):
            ran = await command(GATEWAY, *changes, "--state-dir", net.directory / "y")
            assert ran.code == 1
            assert f"this gateway follows {net.agents}; run the command on that gateway" in ran.err
