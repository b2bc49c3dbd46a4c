"""The uplink of a real agent, against a gateway in the test's hands that has the cluster's keys."""

import time
from pathlib import Path

import pytest
import trio

from raven.control.messages import VERSION, GatewayHello, encode
from raven.net.tls import gateway_context
from raven.net.tls_stream import server_handshake
from raven.net.tunnel import Tunnel, TunnelLost
from raven.registry.gateway_state import open_gateway
from tests.daemons import loopback


async def test_a_gateway_that_says_hello_without_end_is_left(tmp_path: Path) -> None:
    net = loopback(tmp_path)
    async with net.gateway() as gateway:
        await net.join("shop-1")
        await gateway.stop()
    state = open_gateway(net.state, hosts=["127.0.0.1"], name="gw-1", cluster="test", now=time.time())
    foreign = open_gateway(tmp_path / "foreign", hosts=["127.0.0.1"], cluster="test", now=time.time())
    port = int(net.agents.rpartition(":")[2])
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with listener, net.agent("shop-1"):
        with trio.fail_after(15):
            stream = await server_handshake(await listener.accept(), gateway_context(state))
            tunnel = Tunnel(stream, initiator=False, peer="the agent")
            hello = GatewayHello(
                version=VERSION,
                gateway="gw-1",
                cluster="test",
                software="0",
                now=time.time(),
                ca_pem=foreign.ca.read_text(),  # each would be judged in a process of its own
            )

            async def say() -> None:
                with pytest.raises(TunnelLost):  # noqa: PT012
                    await tunnel.control.receive()
                    while True:
                        await tunnel.send_control(encode(hello))
                        await tunnel.ping()  # none waits unread, which would be another reason to leave

            async with trio.open_nursery() as nursery:
                nursery.start_soon(say)
                with pytest.raises(TunnelLost, match="hellos in one breath"):
                    await tunnel.run(None)
    state.close()
    foreign.close()
