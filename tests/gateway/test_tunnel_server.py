"""The tunnel server alone: real TLS on loopback, an agent's end in the test's hands."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from agent.join import join
from gateway import arrival, tunnel_server
from gateway.admin.token import add_token
from gateway.renew import renew
from gateway.revocation import cut_withdrawn
from gateway.tunnels import Offline
from raven.config import Address
from raven.control.messages import (
    GatewayHello,
    Message,
    PacketReport,
    RenewRefused,
    RenewRequest,
    decode_control_untrusted,
    encode,
)
from raven.mux.connection import Connection
from raven.mux.resume import Resume
from raven.net.tls import agent_context, gateway_context
from raven.net.tls_stream import TLSStream, client_handshake
from raven.net.transport_driver import hear
from raven.net.tunnel import Carriage, TunnelLost
from raven.net.tunnel_stream import StreamRefused
from raven.registry.agent_state import AgentState, open_agent
from tests.aged import DAY, past
from tests.gateway.tunnel_bench import Bench, agent_hello, lost, opened, raw, serving, until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(tmp_path) as made:
        yield made


async def test_a_hello_opens_the_door(bench: Bench) -> None:
    async with serving(bench) as nursery:
        state = await bench.join("shop-1")
        tunnel = await bench.dial(state)
        nursery.start_soon(tunnel.run, None)
        await tunnel.send_control(encode(agent_hello("shop-1")))
        answer = decode_control_untrusted(await tunnel.control.receive())
        assert isinstance(answer, GatewayHello)
        assert answer.gateway == "gw-1"
        live = bench.server.table.live("shop-1")
        assert live is not None
        await tunnel.send_control(encode(PacketReport(problem="no TUN")))
        await until(lambda: live.report is not None)
        assert live.report == PacketReport(problem="no TUN")
        assert live.evidence_age() < 10
        record = bench.registry.node("shop-1")
        assert record is not None
        assert record.software == "9.9"
        await tunnel.drain("done")
        await until(lambda: isinstance(bench.server.table.lookup("shop-1"), Offline))


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (agent_hello("shop-2"), "wrong-node", "the hello names node shop-2, the certificate shop-1"),
        (agent_hello("shop-1", version=99), "wrong-version", "control version 99, this gateway 1"),
        (PacketReport(problem=""), "bad-control", "the first message is a PacketReport, expected AgentHello"),
    ],
)
async def test_a_wrong_first_word(bench: Bench, message: Message, reason: str, words: str) -> None:
    async with serving(bench):
        state = await bench.join("shop-1")
        assert words in await lost(await bench.dial(state), message)
        await bench.refused(reason)
        assert bench.server.table.live("shop-1") is None


async def test_a_dead_tunnel_gives_way_to_the_node_that_came_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel_server, "RIVAL_MAX", 0.05)
    async with serving(bench) as nursery:
        state = await bench.join("shop-1")
        transport = await trio.open_tcp_stream("127.0.0.1", bench.port)
        silent = await client_handshake(transport, agent_context(state))
        connection = Connection(initiator=True, now=0.0)
        connection.send_control(encode(agent_hello("shop-1")))
        resume = Resume(bytes(16), transport=0, received=0)
        # It never reads, so it answers no ping.
        await silent.send_all(resume.encode() + connection.data_to_send(1 << 16))
        await until(lambda: bench.server.table.live("shop-1") is not None)
        old = bench.server.table.live("shop-1")
        back = await bench.dial(state)
        nursery.start_soon(back.run, None)
        await back.send_control(encode(agent_hello("shop-1")))
        await back.control.receive()
        assert bench.server.table.live("shop-1") is not old
        await until(lambda: bench.server.lost["replaced"] > 0)
        assert bench.server.table.live("shop-1") is not None
        await trio.aclose_forcefully(silent)


async def test_a_living_tunnel_stays(bench: Bench) -> None:
    async with serving(bench) as nursery:
        state = await bench.join("shop-1")
        first = await bench.dial(state)
        nursery.start_soon(first.run, None)
        await first.send_control(encode(agent_hello("shop-1")))
        await first.control.receive()
        held = bench.server.table.live("shop-1")
        assert "already has a tunnel that answers" in await lost(
            await bench.dial(state), agent_hello("shop-1")
        )
        await bench.refused("node-connected")
        assert bench.server.table.live("shop-1") is held
        assert await first.ping() >= 0


@pytest.mark.parametrize("cut", [True, False], ids=["while it is away", "while it is there"])
async def test_another_node_cannot_resume_with_a_stolen_connection_id(bench: Bench, cut: bool) -> None:
    """Two nodes with certificates of their own: what one knows of the other's connection opens nothing."""
    bench.server.grace = 60.0
    stolen = bytes(range(16))
    async with serving(bench):
        victim, thief = await bench.join("shop-1"), await bench.join("shop-2")
        first, _ = await _first_words(bench, victim, Resume(stolen, transport=0, received=0))
        await until(lambda: bench.server.table.live("shop-1") is not None)
        held = bench.server.table.live("shop-1")
        assert held is not None
        if cut:
            await trio.aclose_forcefully(first)
            await until(lambda: held.tunnel.suspended_since is not None)
        before = (held.tunnel.suspended_since, held.tunnel.resumed, held.address, held.serial)

        theirs, answer = await _first_words(bench, thief, Resume(stolen, transport=1, received=0))
        assert answer.transport == 0  # it begins anew, as shop-2
        await until(lambda: bench.server.table.live("shop-2") is not None)
        fresh = bench.server.table.live("shop-2")
        assert fresh is not None
        assert fresh.tunnel is not held.tunnel
        assert bench.server.table.live("shop-1") is held
        assert (held.tunnel.suspended_since, held.tunnel.resumed, held.address, held.serial) == before
        assert bench.server.resumed == 0

        back, answer = await _first_words(bench, victim, Resume(stolen, transport=1, received=0))
        assert answer.transport == 1  # who it belongs to goes on
        await until(lambda: bench.server.resumed == 1)
        assert bench.server.table.live("shop-1") is held
        assert held.tunnel.suspended_since is None
        for stream in (theirs, back, first):
            await trio.aclose_forcefully(stream)


async def _first_words(bench: Bench, state: AgentState, resume: Resume) -> tuple[trio.abc.Stream, Resume]:
    """A connection of the node that says this RESUME and its hello, and what it hears: the server's."""
    transport = await trio.open_tcp_stream("127.0.0.1", bench.port)
    stream = await client_handshake(transport, agent_context(state))
    connection = Connection(initiator=True, now=0.0)
    connection.send_control(encode(agent_hello(state.node)))
    hello = connection.data_to_send(1 << 16)
    # A connection that goes on has sent its hello before.
    anew = resume.transport == 0 or bench.server.table.live(state.node) is None
    await stream.send_all(resume.encode() + (hello if anew else b""))
    with trio.fail_after(10):
        answer, _ = await hear(stream)
    return stream, answer


async def test_a_certificate_that_was_replaced(bench: Bench) -> None:
    async with serving(bench):
        old = await bench.join("shop-1")
        token = add_token(bench.registry, bench.state.authority.pin, node="shop-1", now=time.time())
        gateway = Address("127.0.0.1", bench.port)
        await join(bench.directory / "again", gateway=gateway, token=token, node="shop-1")
        await lost(await bench.dial(old), agent_hello("shop-1"))
        await bench.refused("certificate-replaced")


async def test_an_expired_certificate_gets_a_tunnel_without_anything(bench: Bench) -> None:
    with past(bench.directory / "old", now=time.time() - 100 * DAY) as then:
        then.join(bench.directory / "shop-1", "shop-1", "127.0.0.1:1")
        server = replace(
            bench.server,
            registry=then.registry,
            context=gateway_context(then.state),
            renew=partial(renew, authority=then.state.authority, registry=then.registry),
        )
        old = replace(bench, server=server)
        state = open_agent(bench.directory / "shop-1", now=time.time())
        async with serving(old) as nursery:
            tunnel = await old.dial(state)
            nursery.start_soon(tunnel.run, None)
            await tunnel.send_control(encode(agent_hello("shop-1")))
            greeting = decode_control_untrusted(await tunnel.control.receive())
            assert isinstance(greeting, GatewayHello)
            assert (greeting.renew_only, greeting.renew_in) == (True, 0.0)
            assert abs(greeting.now - time.time()) < 10
            assert old.server.table.live("shop-1") is None
            with trio.fail_after(10), pytest.raises(StreamRefused):
                await tunnel.open_stream(b"{}")
            await tunnel.send_control(encode(RenewRequest(csr_pem="nonsense")))
            answer = decode_control_untrusted(await tunnel.control.receive())
            assert isinstance(answer, RenewRefused)
            assert answer.reason == "bad-csr"
            await tunnel.drain("enough")
            # Whatever else it says ends it.
            assert "renews it and nothing else" in await lost(
                await old.dial(state), agent_hello("shop-1"), PacketReport(problem="")
            )
            await old.refused("renew-only")
            assert old.server.refused["renew-bad-csr"] == 1
        state.close()


async def test_who_lost_the_right_between_two_words_does_not_come_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.server.grace = 60.0
    greeted = arrival.greeted
    async with serving(bench):
        state = await bench.join("shop-1")
        connection = Connection(initiator=True, now=0.0)
        connection.send_control(encode(agent_hello("shop-1")))
        first = await raw(bench, state, bytes(16), behind=connection.data_to_send(1 << 16))
        await until(lambda: bench.server.table.live("shop-1") is not None)
        live = bench.server.table.live("shop-1")
        assert live is not None
        await trio.aclose_forcefully(first)
        await until(lambda: live.tunnel.suspended_since is not None)

        async def replaced_meanwhile(stream: TLSStream) -> Carriage:
            carriage = await greeted(stream)
            token = add_token(bench.registry, bench.state.authority.pin, node="shop-1", now=time.time())
            gateway = Address("127.0.0.1", bench.port)
            await join(bench.directory / "again", gateway=gateway, token=token, node="shop-1")
            return carriage

        monkeypatch.setattr(tunnel_server, "greeted", replaced_meanwhile)
        back = await raw(bench, state, bytes(16), transport=1)
        await bench.refused("certificate-replaced")
        assert (live.tunnel.resumed, bench.server.resumed) == (0, 0)
        await trio.aclose_forcefully(back)


async def test_a_certificate_that_expires_ends_its_tunnel(bench: Bench) -> None:
    async with serving(bench) as nursery:
        state = await bench.join("shop-1")
        nursery.start_soon(cut_withdrawn, bench.registry, bench.server.table, bench.server.network)
        tunnel = await bench.dial(state)
        ended = trio.Event()

        async def run() -> None:
            with pytest.raises(TunnelLost, match="the certificate of node shop-1 has expired"):
                await tunnel.run(None)
            ended.set()

        nursery.start_soon(run)
        await tunnel.send_control(encode(agent_hello("shop-1")))
        await tunnel.control.receive()
        live = bench.server.table.live("shop-1")
        assert live is not None
        assert live.expires > time.time() + 89 * DAY
        live.expires = time.time() - 1
        with trio.fail_after(2):
            await ended.wait()
