"""A tunnel server on loopback for tests, without a gateway around it, and the ends of agents that dial it."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from agent.join import join
from gateway.admin.token import add_token
from gateway.join import JoinResult, OwnEnroller, serve_join
from gateway.network import GatewayNetwork
from gateway.renew import renew
from gateway.tunnel_server import TunnelServer
from gateway.tunnels import TunnelTable
from raven.config import Address
from raven.control.messages import VERSION, AgentHello, GatewayHello, Message, encode
from raven.mux.resume import Resume
from raven.net.end import EndOptions
from raven.net.tls import agent_context, gateway_context
from raven.net.tls_stream import TLSStream, client_handshake
from raven.net.tunnel import Tunnel, TunnelLost
from raven.registry.agent_state import AgentState
from raven.registry.gateway_state import GatewayState, open_gateway
from raven.registry.sqlite import SqliteRegistry
from tests.topology.ranges import ANY_RANGE


@dataclass
class Bench:
    """A server that listens, and the states of nodes that joined it."""

    server: TunnelServer
    state: GatewayState
    registry: SqliteRegistry
    directory: Path
    port: int = 0

    async def join(self, node: str) -> AgentState:
        token = add_token(self.registry, self.state.authority.pin, now=time.time())
        gateway = Address("127.0.0.1", self.port)
        return (await join(self.directory / node, gateway=gateway, token=token, node=node)).state

    async def dial(self, state: AgentState) -> Tunnel:
        transport = await trio.open_tcp_stream("127.0.0.1", self.port)
        stream = await client_handshake(transport, agent_context(state))
        return Tunnel(stream, initiator=True, peer="the server under test")

    async def refused(self, reason: str) -> None:
        await until(lambda: self.server.refused[reason] > 0)


@contextmanager
def opened(tmp_path: Path) -> Iterator[Bench]:
    """A bench on a fresh gateway's state in that directory."""
    state = open_gateway(
        tmp_path / "gateway", hosts=["127.0.0.1"], name="gw-1", cluster="test", now=time.time()
    )
    registry = SqliteRegistry(state.registry, now=time.time())

    def last_seen(name: str) -> float | None:
        if (record := registry.node(name)) is None:
            raise KeyError(name)
        return record.last_seen

    async def serve(stream: trio.abc.Stream, address: str) -> JoinResult:
        return await serve_join(
            stream, enroller=OwnEnroller(state.authority, registry), gateways=["127.0.0.1:1"], peer=address
        )

    server = TunnelServer(
        table=TunnelTable(last_seen),
        registry=registry,
        context=gateway_context(state),
        cluster="test",
        hello=GatewayHello(version=VERSION, gateway="gw-1", cluster="test", software="0"),
        network=GatewayNetwork(
            EndOptions(
                private_key=state.wg_private_key,
                public_key=state.wg_public_key,
                listen_port=4500,
                pod_cidrs=[],
                interface="none",
                state_dir=tmp_path,
                off="not in this test",
            ),
            name="gw-1",
            endpoint="127.0.0.1:4500",
            pod_ranges=lambda node: ANY_RANGE,
        ),
        join=serve,
        news=lambda live: None,
        renew=partial(renew, authority=state.authority, registry=registry),
    )
    yield Bench(server, state, registry, tmp_path)
    registry.close()
    state.close()


@asynccontextmanager
async def serving(bench: Bench) -> AsyncIterator[trio.Nursery]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    bench.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.server.serve, listeners, nursery)
        yield nursery
        nursery.cancel_scope.cancel()


def agent_hello(node: str, *, version: int = VERSION) -> AgentHello:
    return AgentHello(version=version, node=node, software="9.9", packets=None, no_packets_reason="a test")


async def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds; looks again every 10 ms, for what no event tells."""
    with trio.fail_after(10):
        while True:
            if condition():
                return
            await trio.sleep(0.01)


async def lost(tunnel: Tunnel, *messages: Message) -> str:
    """Why the server ended the tunnel after these messages."""
    async with trio.open_nursery() as nursery:

        async def say() -> None:
            with suppress(TunnelLost):  # the verdict may come before the first word
                for message in messages:
                    await tunnel.send_control(encode(message))

        nursery.start_soon(say)
        with trio.fail_after(10), pytest.raises(TunnelLost) as caught:
            await tunnel.run(None)
    return str(caught.value)


async def raw(
    bench: Bench, state: AgentState, connection: bytes, *, transport: int = 0, behind: bytes = b""
) -> TLSStream:
    """A node's transport that says RESUME, what is given `behind` it, and no more."""
    stream = await client_handshake(await trio.open_tcp_stream("127.0.0.1", bench.port), agent_context(state))
    await stream.send_all(Resume(connection, transport=transport, received=0).encode() + behind)
    return stream
