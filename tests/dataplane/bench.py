"""An engine between a real TUN device and a test's UDP socket, with a device that seals nothing."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import uvloop

from raven.dataplane.engine import Engine
from raven.dataplane.offloads import Offloads
from raven.dataplane.tun import Tun
from raven.wg.configuration import DeviceChange
from raven.wg.endpoint import Endpoint
from tests.dataplane.fakes import OVERHEAD, ClearDevice
from tests.lab.machine import Machine

BLANK = bytes(OVERHEAD)


class Bench:
    """An engine at work, and the test's own end of the outer path."""

    def __init__(self, machine: Machine, offloads: Offloads | None = None) -> None:
        self.machine = machine
        self.loop = asyncio.get_running_loop()
        self.tun = Tun(machine.interface, mtu=1420)
        self.ended: asyncio.Future[str] = self.loop.create_future()
        self.device = ClearDevice()
        self.engine = Engine(self.loop, self.tun, self.device, self._end, offloads)
        self.outer = _udp("127.0.0.1")
        self.inner = _udp("0.0.0.0")

    def _end(self, message: str) -> None:
        if not self.ended.done():
            self.ended.set_result(message)

    def configure(self, change: DeviceChange) -> None:
        for _ in self.engine.configuring(change):
            pass

    async def ip(self, *words: str) -> None:
        """Runs `ip` while the engine goes on working."""
        await self.loop.run_in_executor(None, self.machine.run, "ip", *words)

    async def up(self) -> None:
        self.engine.start()
        await self.ip("addr", "add", "10.0.0.2/24", "dev", self.tun.name)
        await self.ip("link", "set", self.tun.name, "up")
        await self.until(lambda: self.engine._sender.udp is not None)
        self.device.peer = Endpoint("127.0.0.1", self.outer.getsockname()[1])

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.005)

    def inward(self, packet: bytes) -> None:
        """As the peer: sends `packet` to the engine."""
        address = ("127.0.0.1", self.device.listen_port)
        self.outer.sendto(BLANK + packet + BLANK, address)

    async def outward(self) -> bytes:
        """As the peer: the next packet, of those to 10.0.0.1."""
        while True:
            packet = (await self.loop.sock_recv(self.outer, 65536))[OVERHEAD:-OVERHEAD]
            if packet[16:20] == bytes([10, 0, 0, 1]):
                return packet

    def close(self) -> None:
        self.engine.stop()
        self.tun.close()
        self.outer.close()
        self.inner.close()


def _udp(host: str) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.bind((host, 0))
    return one


def run(machine: Machine, work: Callable[[Bench], Awaitable[None]], offloads: Offloads | None = None) -> None:
    async def main() -> None:
        bench = Bench(machine, offloads)
        try:
            async with asyncio.timeout(20):
                await work(bench)
        finally:
            bench.close()

    machine.inside(lambda: uvloop.run(main()))
