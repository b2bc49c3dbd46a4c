"""Joins against the real gateway's end, over TLS and TCP: refused, cut off, raced for, and done again."""

import time
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.join import join
from raven.config import Address
from raven.errors import ConfigError, PeerError, RefusedError, StateError
from raven.net.tls import agent_context, check_gateway, check_node
from raven.pki.token import new_token
from raven.registry.agent_state import open_agent
from tests.agent.joining import quick_join, running
from tests.pki.material import make_authority, seeded

OTHER_CA = make_authority(seed=2)


async def test_a_joined_node_can_dial_its_gateway(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        joined = await quick_join(tmp_path / "agent", world, world.token())
        assert abs(joined.clock_skew) < 5
        state = open_agent(tmp_path / "agent", now=time.time())
        assert (state.node, state.cluster) == ("shop-1", world.state.cluster)
        assert state.gateways == ("gw.example.com:443",)
        near, far = trio.testing.memory_stream_pair()
        client = trio.SSLStream(near, agent_context(state))
        server = trio.SSLStream(far, world.context, server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
        peer = check_node(server, cluster=world.state.cluster)
        world.registry.check_certificate(node=peer.identity.name, serial=peer.serial)
        assert check_gateway(client, cluster=state.cluster).identity.name == "gateway"
        state.close()


async def test_a_join_whose_answer_is_lost_succeeds_with_the_same_token(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        token = world.token()
        world.answers = False
        with pytest.raises(PeerError) as caught:
            await quick_join(tmp_path / "agent", world, token)
        assert caught.value.reason == "closed"
        assert [node.name for node in world.registry.nodes()] == ["shop-1"]
        world.answers = True
        assert (await quick_join(tmp_path / "agent", world, f" {token}\n")).state.node == "shop-1"
        (certificate,) = world.registry.certificates("shop-1")
        assert (tmp_path / "agent" / "node.crt").read_text() == certificate.pem


async def test_each_refusal_reaches_the_user_and_writes_no_identity(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        used = world.token()
        await quick_join(tmp_path / "first", world, used)
        for token, node, reason in [
            (used, "shop-2", "token-used"),
            (world.token(), "shop-1", "node-taken"),
            (world.token("shop-9"), "shop-2", "token-node"),
            (world.token()[:-1], "shop-2", "token-malformed"),
            (new_token(OTHER_CA.pin, random=seeded()).text(), "shop-2", "wrong-pin"),
        ]:
            with pytest.raises(RefusedError) as caught:
                await quick_join(tmp_path / "second", world, token, node)
            assert caught.value.reason == reason
            with pytest.raises(StateError, match="no identity here"):
                open_agent(tmp_path / "second", now=0)
        # The one that was stopped by its pin never got as far as a request.
        assert await world.verdicts(5) == [
            "accepted",
            "token-used",
            "node-taken",
            "token-node",
            "closed",
        ]


async def test_joining_again_needs_force_and_a_token_for_the_node(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        await quick_join(tmp_path / "agent", world, world.token())
        token = world.token("shop-1")
        with pytest.raises(StateError, match="already joined"):
            await quick_join(tmp_path / "agent", world, token)
        before = (tmp_path / "agent" / "node.key").read_bytes()
        await quick_join(tmp_path / "agent", world, token, force=True)
        assert (tmp_path / "agent" / "node.key").read_bytes() != before
        newest = world.registry.certificates("shop-1")[0]
        assert (tmp_path / "agent" / "node.crt").read_text() == newest.pem


async def test_two_joiners_race_for_one_token(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        token = world.token()
        outcomes: list[str] = []

        async def race(node: str) -> None:
            try:
                await quick_join(tmp_path / node, world, token, node)
                outcomes.append("joined")
            except RefusedError as error:
                outcomes.append(error.reason)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(race, f"shop-{number}")
        assert sorted(outcomes) == ["joined", "token-used", "token-used", "token-used"]
        assert len(world.registry.nodes()) == 1


@pytest.mark.parametrize("node", ["", "Shop", "a/b", "x" * 254])
async def test_an_unusable_name_is_found_before_anything_else(tmp_path: Path, node: str) -> None:
    with pytest.raises(ConfigError, match="--node"):
        await join(tmp_path / "agent", gateway=Address("127.0.0.1", 1), token="x", node=node)
    assert not (tmp_path / "agent").exists()
