"""Two gateways without Kubernetes, as processes: one with the CA, one that follows it."""

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509

from raven.errors import PeerError
from raven.pki.certificate import Leaf, check_leaf_untrusted, load_ca_certificate, load_leaf, pin_of
from raven.pki.identity import Role
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


def pins(path: Path) -> list[bytes]:
    return [pin_of(one) for one in x509.load_pem_x509_certificates(path.read_bytes())]


def leaf(path: Path) -> Leaf:
    return load_leaf((path / "gateway.crt" if path.is_dir() else path).read_bytes())


async def _ca(net: Loopback, verb: str) -> None:
    ran = await command(GATEWAY, "ca", verb, "--state-dir", net.state)
    assert ran.code == 0, ran.err


def _first_pin(net: Loopback) -> Callable[[], Awaitable[bytes]]:
    """The CA that the gateway has."""

    async def read() -> bytes:
        return pins(net.state / "ca.crt")[0]

    return read


def _signed_by(net: Loopback) -> Callable[[], Awaitable[bytes]]:
    """The CA that has signed the gateway's certificate; b"" for another than the one it has."""

    async def read() -> bytes:
        ca = load_ca_certificate((net.state / "ca.crt").read_bytes())
        with suppress(PeerError):
            check_leaf_untrusted(
                leaf(net.state).pem, ca, role=Role.GATEWAY, cluster=leaf(net.state).identity.cluster, now=None
            )
            return pin_of(ca)
        return b""

    return read


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


async def test_a_new_ca_reaches_followers_and_their_agents(net: Loopback) -> None:
    """Tunnels to both stay up meanwhile, and everybody comes back after the CA before is gone."""
    async with net.gateway():
        await net.join("shop-1")
        other = await net.follower("gw-2")
        (old,) = pins(net.state / "ca.crt")
        async with other.gateway() as second, net.agent("shop-1") as agent:
            before = await _up(agent, "gw-1", "gw-2")
            await _ca(net, "rotate")
            new = await until(_first_pin(other), lambda pin: pin != old, "the new CA at the follower")
            assert new == pins(net.state / "ca.crt")[0]
            await until(_signed_by(other), lambda pin: pin == new, "a certificate of the new CA", seconds=20)
            assert pins(other.state / "trust.crt") == [new, old]
            assert leaf(other.state / "previous" / "gateway.crt").key_hash == leaf(other.state).key_hash
            now = await _up(agent, "gw-1", "gw-2")
            assert [one.attempts for one in now.uplinks] == [one.attempts for one in before.uplinks]
            await _ca(net, "retire")

            async def gone() -> bool:
                return not (other.state / "previous").exists() and not (other.state / "trust.crt").exists()

            await until(gone, bool, "the old CA to go")
            assert (await second.gateway_snapshot()).problems == []
            await second.stop()
        async with other.gateway(), net.agent("shop-1") as agent:
            await _up(agent, "gw-1", "gw-2")


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
