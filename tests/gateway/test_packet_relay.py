"""A node's datagrams out of its tunnel: to the device that carries it, and only while one does."""

import socket
from collections import Counter

import trio
import trio.testing

from gateway.packet_relay import NodeRelay
from raven.net.relay import FLOW, Relay
from tests.net.tunnels import tunnels


async def test_a_relay_is_made_for_the_first_datagram_and_ends_with_the_tunnel() -> None:
    drops: Counter[str] = Counter()
    made: list[Relay] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.bind(("127.0.0.1", 0))
        device.settimeout(2)
        there = False

        def make() -> Relay | None:
            if there:
                made.append(Relay(device.getsockname()[1], drops))
            return made[-1] if there else None

        async with tunnels() as both, trio.open_nursery() as nursery:
            both.right.on_datagrams = NodeRelay(both.right, nursery, make).received
            answers: list[tuple[int, int, bytes]] = []
            came = trio.Event()

            def answered(flow: int, size: int, data: bytes) -> None:
                answers.append((flow, size, data))
                came.set()

            both.left.on_datagrams = answered
            both.left.send_datagrams(FLOW, segment_size=148, data=b"x" * 148)
            await trio.testing.wait_all_tasks_blocked()
            there = True
            both.left.send_datagrams(FLOW + 7, segment_size=148, data=b"of another flow" * 10)
            both.left.send_datagrams(FLOW, segment_size=100, data=b"y" * 100 + b"z" * 60)
            await trio.testing.wait_all_tasks_blocked()
            data, source = device.recvfrom(2048)
            assert data == b"y" * 100
            assert device.recv(2048) == b"z" * 60
            assert len(made) == 1
            device.sendto(b"a" * 92, source)
            with trio.fail_after(5):
                await came.wait()
            assert answers == [(FLOW, 92, b"a" * 92)]
            nursery.cancel_scope.cancel()
        assert not drops
        made[0].to_device(32, b"q" * 32)
        assert drops == {"relay-device-full": 1}, "it is closed"
