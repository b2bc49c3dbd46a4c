"""The agent as a process: without a gateway, without state, and what it costs while idle."""

import shutil
from pathlib import Path

import pytest
import trio

from tests.daemons import AGENT, Daemon, Loopback, Ran, command, loopback, until

IDLE_MAX = 48_000_000  # bytes resident; the promise of the README


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


async def _run(state: Path, net: Loopback) -> Ran:
    """An agent that is expected to end by itself. Without packets: this is the machine's own network."""
    alone = ("--no-packets", "--metrics-listen", "off", "--socket", net.directory / "s")
    return await command(AGENT, "run", "--state-dir", state, *alone)


async def _down(agent: Daemon, words: str) -> str:
    """The sentence about the only uplink, once it contains `words`."""
    snapshot = await until(
        agent.agent_snapshot, lambda now: words in now.uplinks[0].lane.detail, f"{words!r} in the status"
    )
    lane = snapshot.uplinks[0].lane
    assert lane.state == "down"
    return lane.detail


async def test_without_its_gateway_it_says_so_and_stops_at_once(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        await gateway.stop()
    async with net.agent("shop-1") as agent:
        detail = await _down(agent, "Connection refused")
        assert detail.startswith(
            f"gateway {net.agents}: cannot connect: Connection refused; next attempt in "
        )
        assert await agent.stop(seconds=5) == 0
    assert agent.log.read_text().count("no tunnel") == 1  # once, however often it tried


async def test_a_gateway_of_another_cluster(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        await gateway.stop()
    shutil.rmtree(net.state)
    async with net.gateway() as stranger, net.agent("shop-1") as agent:
        assert "the certificate comes from another cluster's CA" in await _down(agent, "certificate")
        assert (await stranger.gateway_snapshot()).nodes == []


async def test_something_else_listens_there(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        await gateway.stop()

    async def http(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(int(net.agents.rpartition(":")[2]), host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, http, listeners)
        async with net.agent("shop-1") as agent:
            assert "does not speak TLS" in await _down(agent, "TLS")
        nursery.cancel_scope.cancel()


async def test_a_node_that_was_removed_is_told(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        assert await gateway.stop() == 0
        (net.state / "registry.sqlite").unlink()
        for left in net.state.glob("registry.sqlite-*"):
            left.unlink()
    async with net.gateway(), net.agent("shop-1") as agent:
        assert "shop-1" in await _down(agent, "join")


async def test_before_it_joined(net: Loopback) -> None:
    ran = await _run(net.directory / "absent", net)
    assert ran.code == 1
    assert ran.err == (
        f"raven-agent: {net.directory / 'absent'}: no identity here; `raven-agent join` makes it\n"
    )


async def test_a_corrupted_certificate_is_named(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        await gateway.stop()
    for name in ("agent.json", "node.key", "node.crt", "ca.crt", "wg.key"):
        path = net.directory / "shop-1" / name
        good = path.read_bytes()
        path.write_bytes(b"\xff" + good[3:])
        ran = await _run(path.parent, net)
        assert ran.code == 1, name
        assert str(path) in ran.err
        assert "Traceback" not in ran.err
        path.write_bytes(good)


async def test_join_that_cannot_be(net: Loopback) -> None:
    state = ("--state-dir", net.directory / "n", "--node", "n")
    for arguments, code, words in (
        (("--gateway", net.agents, "--token", "nonsense"), 1, "a token reads raven1.ID.SECRET.PIN"),
        (("--gateway", "gw", "--token", "x"), 2, "--gateway gw: expected HOST:PORT; it has no port"),
    ):
        ran = await command(AGENT, "join", *state, *arguments)
        assert (ran.code, ran.out) == (code, ""), ran
        assert words in ran.err
        assert "Traceback" not in ran.err


async def test_a_second_agent_on_one_directory(net: Loopback) -> None:
    async with net.gateway():
        await net.join("shop-1")
        async with net.agent("shop-1"):
            ran = await _run(net.directory / "shop-1", net)
    assert ran.code == 1
    assert str(net.directory / "shop-1") in ran.err


async def test_an_idle_agent_is_small(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        async with net.agent("shop-1") as agent:
            await gateway.connected("shop-1")
            await agent.ping("gateway")
            mapped = agent.mapped()
            assert agent.resident() < IDLE_MAX
    assert "cryptography" not in mapped
    assert "numpy" not in mapped
