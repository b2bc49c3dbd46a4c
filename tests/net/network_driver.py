"""Runs a gateway's or an agent's end of the packet lane without the stream lane, for tests.

`python -m tests.net.network_driver FILE`, in a namespace; FILE is the JSON of `Orders`. Its methods are
called through the Unix socket FILE.sock: one `Call` a line, one `Answer` a line. SIGTERM ends it in order.
"""

import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from agent.network import AgentNetwork
from gateway.network import GatewayNetwork
from raven.control.messages import NetworkMap, PacketOffer
from raven.errors import RavenError
from raven.keys import PrivateKey, PublicKey
from raven.net.end import EndOptions
from raven.registry.interface import NodeRecord
from tests.topology.ranges import ANY_RANGE


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the two constructors need; `endpoint` makes it a gateway."""

    name: str
    interface: str
    private_key: str
    public_key: str
    state_dir: str
    pod_cidrs: list[str]
    endpoint: str = ""
    listen_port: int = 0
    off: str = ""
    program: list[str] | None = None
    load: list[tuple[str, str, list[str]]] = []  # node, public key, pod networks; as the registry knows them


class Call(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    node: str = ""
    packets: PacketOffer | None = None
    map: NetworkMap | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    error: str = ""
    result: Any = None


def options_of(orders: Orders) -> EndOptions:
    return EndOptions(
        private_key=PrivateKey.from_base64(orders.private_key),
        public_key=PublicKey.from_base64(orders.public_key),
        listen_port=orders.listen_port,
        pod_cidrs=orders.pod_cidrs,
        interface=orders.interface,
        state_dir=Path(orders.state_dir),
        off=orders.off,
        program=orders.program,
    )


def gateway(orders: Orders) -> tuple[GatewayNetwork, Callable[[Call], Awaitable[object]]]:
    network = GatewayNetwork(
        options_of(orders), name=orders.name, endpoint=orders.endpoint, pod_ranges=lambda node: ANY_RANGE
    )
    network.load(
        NodeRecord(
            name=name,
            created=number,
            last_seen=None,
            public_key=PublicKey.from_base64(key),
            pod_cidrs=tuple(pod_cidrs),
            software="",
            certificate_serial="",
        )
        for number, (name, key, pod_cidrs) in enumerate(orders.load)
    )

    async def answer(call: Call) -> object:
        if call.what == "ping":
            return await network.ping(call.node)
        found: dict[str, Callable[[], object]] = {
            "offer": lambda: network.offer(call.node, call.packets),
            "map": lambda: network.map_for(call.node),
            "lane": network.lane,
            "node_lane": lambda: network.node_lane(call.node),
            "problems": network.problems,
            "counters": network.counters,
        }
        return found[call.what]()

    return network, answer


def agent(orders: Orders) -> tuple[AgentNetwork, Callable[[Call], Awaitable[object]]]:
    network = AgentNetwork(options_of(orders), node=orders.name)

    async def answer(call: Call) -> object:
        if call.what == "ping":
            return await network.ping()
        if call.what == "take_map":
            assert call.map is not None
            network.take_map(call.map)
            return None
        found: dict[str, Callable[[], object]] = {
            "offer": network.offer,
            "report": network.report,
            "lane": network.lane,
            "problems": network.problems,
            "counters": network.counters,
        }
        return found[call.what]()

    return network, answer


async def main(path: str) -> None:
    orders = msgspec.json.decode(await trio.Path(path).read_bytes(), type=Orders)
    network, answer = gateway(orders) if orders.endpoint else agent(orders)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            buffered = b""
            async for data in stream:
                *lines, buffered = (buffered + data).split(b"\n")
                for line in lines:
                    try:
                        reply = Answer(result=await answer(msgspec.json.decode(line, type=Call)))
                    except RavenError as error:
                        reply = Answer(error=str(error))
                    await stream.send_all(msgspec.json.encode(reply) + b"\n")

    listening = trio.socket.socket(trio.socket.AF_UNIX)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            await listening.bind(f"{path}.sock")
            listening.listen(5)
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
