"""Strangers at the tunnel server, and nodes that say nothing: for how long, and how many at once."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from gateway import arrival, tunnel_server
from raven.control.messages import encode
from raven.net.strangers import Strangers
from tests.gateway.tunnel_bench import Bench, agent_hello, lost, opened, raw, serving, until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(tmp_path) as made:
        yield made


async def test_silence_before_the_handshake(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "FIRST_MAX", 0.05)
    async with serving(bench), await trio.open_tcp_stream("127.0.0.1", bench.port):
        await bench.refused("silent")
        assert bench.server.strangers == 0


async def test_half_a_handshake_ends_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_server, "HANDSHAKE_MAX", 0.05)
    async with serving(bench), await trio.open_tcp_stream("127.0.0.1", bench.port) as stream:
        await stream.send_all(b"\x16\x03\x01")
        await bench.refused("tls-timeout")
        assert bench.server.strangers == 0


async def test_silence_after_the_handshake(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_server, "HELLO_MAX", 0.05)
    async with serving(bench):
        state = await bench.join("shop-1")
        assert "no hello within" in await lost(await bench.dial(state))
        await bench.refused("hello-timeout")


async def test_strangers_are_bounded(bench: Bench) -> None:
    bench.server.places = Strangers(low=2, high=4, each_max=2)
    async with serving(bench):
        held = [await trio.open_tcp_stream("127.0.0.1", bench.port) for _ in range(2)]
        await until(lambda: bench.server.strangers == 2)
        async with await trio.open_tcp_stream("127.0.0.1", bench.port) as late:
            with trio.fail_after(10):
                with suppress(trio.BrokenResourceError):
                    assert (await late.receive_some()).startswith(b"RAVEN BUSY ")
        await bench.refused("too-many-from-network")
        for stream in held:
            await stream.aclose()
        state = await bench.join("shop-1")
        assert state.node == "shop-1"


async def test_a_node_has_few_tunnels_that_say_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_server, "UNPLACED_MAX", 2)
    async with serving(bench) as nursery:
        state = await bench.join("shop-1")
        held = [await raw(bench, state, bytes([number]) * 16) for number in range(2)]
        for stream in held:
            await stream.receive_some()  # the server's RESUME: the tunnel runs
        assert "have yet to say their hello" in await lost(await bench.dial(state), agent_hello("shop-1"))
        await bench.refused("too-many-tunnels")
        for stream in held:
            await trio.aclose_forcefully(stream)
        await until(lambda: sum(bench.server.refused.values()) == 3)
        tunnel = await bench.dial(state)
        nursery.start_soon(tunnel.run, None)
        await tunnel.send_control(encode(agent_hello("shop-1")))
        await tunnel.control.receive()
        await until(lambda: bench.server.accepted == 1)
