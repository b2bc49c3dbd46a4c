"""The followed end of two gateways: who was removed stays out, whatever it says and however late."""

import dataclasses
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.followers import Followers
from raven.control.copies import VERSION, FollowerHello
from raven.control.messages import encode
from raven.net.tunnel import Tunnel, TunnelLost
from raven.registry.gateway_state import open_gateway
from raven.registry.sqlite import SqliteRegistry
from tests.registry.records import SECRET, token

KEY = b"k" * 32


async def test_who_is_removed_before_its_hello_does_not_come_back(tmp_path: Path) -> None:
    now = time.time()
    state = open_gateway(tmp_path, hosts=["gw-1"], name="gw-1", now=now)
    registry = SqliteRegistry(state.registry, now=now)
    registry.record_gateway("gw-1", address="gw-1:443", now=now)
    registry.add_token(dataclasses.replace(token("gw", node="gw-2"), role="gateway", expires=now + 60))
    registry.enrol_gateway(
        token_id="gw", secret=SECRET, name="gw-2", address="gw-2:443", key_hash=KEY, now=now
    )
    ours, theirs = trio.testing.memory_stream_pair()
    follower = Tunnel(theirs, initiator=True, peer="gw-1")

    async def say_hello_late() -> None:
        registry.check_gateway("gw-2", key_hash=KEY)  # as the handshake did
        registry.remove_gateway("gw-2", now=now)
        hello = FollowerHello(version=VERSION, gateway="gw-2", address="elsewhere:443", software="")
        await follower.send_control(encode(hello))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Followers(state=state, registry=registry).serve, ours, ("gw-2", KEY), "there")
            nursery.start_soon(say_hello_late)
            with pytest.raises(TunnelLost, match="was removed since"):
                await follower.run(None)
    assert [one.name for one in registry.known_gateways().gateways] == ["gw-1"]
    registry.close()
    state.close()
