"""Datagrams of two devices through a tunnel: whole, in order, and to nobody else."""

import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from raven.net.relay import FLOW, Relay
from raven.net.tunnel import Tunnel
from tests.net.tunnels import tunnels

_UDP_SEGMENT = 103


@pytest.fixture
def devices() -> Iterator[tuple[socket.socket, socket.socket]]:
    """What the devices listen at."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as left,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as right,
    ):
        for one in (left, right):
            one.bind(("127.0.0.1", 0))
            one.settimeout(2)
        yield left, right


def _port(device: socket.socket) -> int:
    port: int = device.getsockname()[1]
    return port


def _where(relay: Relay) -> tuple[str, int]:
    host, _, port = relay.endpoint.rpartition(":")
    return host, int(port)


def _sending(tunnel: Tunnel, segment_size: int, data: memoryview) -> bool:
    return tunnel.send_datagrams(FLOW, segment_size=segment_size, data=data)


@asynccontextmanager
async def relays(left: socket.socket, right: socket.socket) -> AsyncIterator[tuple[Relay, Relay]]:
    async with tunnels() as both:
        near, far = Relay(_port(left), Counter()), Relay(_port(right), Counter())
        with contextlib.closing(near), contextlib.closing(far):
            both.left.on_datagrams = lambda flow, size, data: near.to_device(size, data)
            both.right.on_datagrams = lambda flow, size, data: far.to_device(size, data)
            both.nursery.start_soon(near.run, partial(_sending, both.left))
            both.nursery.start_soon(far.run, partial(_sending, both.right))
            yield near, far


async def _receive(device: socket.socket) -> bytes:
    return await trio.to_thread.run_sync(device.recv, 65536)


@pytest.mark.parametrize("size", [32, 148, 1452, 9000])
async def test_datagrams_arrive_as_they_were_sent(
    devices: tuple[socket.socket, socket.socket], size: int
) -> None:
    left, right = devices
    async with relays(left, right) as (near, far):
        for sender, relay, receiver in ((left, near, right), (right, far, left)):
            sent = [bytes([number]) * size for number in range(5)]
            for one in sent:
                sender.sendto(one, _where(relay))
            assert [await _receive(receiver) for _ in sent] == sent


async def test_a_run_of_a_device_stays_a_run_of_datagrams(
    devices: tuple[socket.socket, socket.socket],
) -> None:
    left, right = devices
    async with relays(left, right) as (near, _):
        sent = [bytes([number]) * 1452 for number in range(40)] + [b"the last"]
        control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, (1452).to_bytes(2, "little"))]
        left.sendmsg([b"".join(sent)], control, 0, _where(near))
        assert [await _receive(right) for _ in sent] == sent


async def test_strangers_are_not_relayed_and_too_short_ones_go_nowhere(
    devices: tuple[socket.socket, socket.socket],
) -> None:
    left, right = devices
    async with relays(left, right) as (near, far):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"x" * 64, _where(near))
        far.to_device(1, b"y" * 65535)
        left.sendto(b"z" * 64, _where(near))
        assert await _receive(right) == b"z" * 64


async def test_a_device_that_is_away_costs_its_datagrams_only(
    devices: tuple[socket.socket, socket.socket],
) -> None:
    left, right = devices
    async with relays(left, right) as (near, far):
        port = _port(right)
        right.close()
        for _ in range(3):
            left.sendto(b"x" * 64, _where(near))
            await trio.sleep(0.02)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))
            again.settimeout(2)
            left.sendto(b"y" * 64, _where(near))
            assert await _receive(again) == b"y" * 64
            again.sendto(b"z" * 64, _where(far))
            assert await _receive(left) == b"z" * 64
