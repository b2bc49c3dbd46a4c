"""The engine between a real TUN device and a test's UDP socket, with a device that seals nothing.

test's sockets ── lo ── engine's sockets ── engine ── TUN 10.0.0.2/24 ── test's sockets
"""

import asyncio
import errno
import socket
import sys
from collections.abc import Sequence

import pytest

from raven.dataplane.clock import boottime
from raven.dataplane.offloads import TUN_UDP
from raven.ip import header as h
from raven.ip.checksum import ones_complement_sum
from raven.wg.configuration import DeviceChange, UapiError
from raven.wg.device import Transmit
from raven.wg.endpoint import Endpoint
from tests.dataplane.bench import BLANK, Bench, run
from tests.ip.model import Flow
from tests.lab.machine import Machine

pytestmark = pytest.mark.netns


def test_packets_pass_both_ways(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        bench.inner.sendto(b"hello", ("10.0.0.1", 443))
        packet = await bench.outward()
        port = bench.inner.getsockname()[1]
        assert packet[9] == socket.IPPROTO_UDP
        assert packet[20:22] == port.to_bytes(2)
        assert packet[28:] == b"hello"
        # The model sends from 10.0.0.1 to 10.0.0.2, port 443.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.setblocking(False)
            server.bind(("10.0.0.2", 443))
            bench.inward(Flow(tcp=False).packet(b"answer"))
            assert await bench.loop.sock_recv(server, 100) == b"answer"

    run(machine, work)


def test_a_packet_that_comes_alone_costs_one_read(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        reads = _counted(bench.tun, "read_into")
        udp = bench.engine._sender.udp
        assert udp is not None
        receives = _counted(udp.sockets[0], "receive")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.setblocking(False)
            server.bind(("10.0.0.2", 443))
            for number in range(3):
                await asyncio.sleep(0.002)  # a lull
                bench.device.lone.clear()
                before = len(reads), len(receives)
                bench.inner.sendto(b"%d" % number, ("10.0.0.1", 443))
                packet = await bench.outward()
                assert packet[28:] == b"%d" % number
                # The kernel left the checksum open, and it covers the addresses.
                assert ones_complement_sum(packet[12:20] + b"\0\x11\0\x09" + packet[20:]) == 0xFFFF
                bench.inward(Flow(tcp=False).packet(b"answer"))
                assert await bench.loop.sock_recv(server, 100) == b"answer"
                assert bench.device.lone == [29, 34]
                assert (len(reads), len(receives)) == (before[0] + 1, before[1] + 1)

    run(machine, work)


def _counted(owner: object, name: str) -> list[None]:
    """Grows with each call of that method."""
    calls: list[None] = []
    method = getattr(owner, name)

    def counting(*arguments: object) -> object:
        calls.append(None)
        return method(*arguments)

    setattr(owner, name, counting)
    return calls


def test_packets_that_come_together_stay_in_order(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        for number in range(100):
            bench.inner.sendto(b"%d" % number, ("10.0.0.1", 443))
        assert [(await bench.outward())[28:] for _ in range(100)] == [b"%d" % n for n in range(100)]
        assert len(bench.device.lone) < 50  # most go in runs

    run(machine, work)


def test_a_superpacket_leaves_as_segments(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        bench.inner.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        payload = bytes(range(250)) * 16
        bench.inner.sendto(payload, ("10.0.0.1", 443))
        packets = [await bench.outward() for _ in range(4)]
        assert b"".join(packet[28:] for packet in packets) == payload
        assert [len(packet) for packet in packets] == [1028] * 4

    run(machine, work)


def test_a_kernel_that_refuses_a_superpacket_gets_packets_from_then_on(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        real, refused = bench.tun.write, []

        def write(pieces: Sequence[bytes | memoryview]) -> str:
            if h.Virtio.unpack_from(pieces[0]).gso_type != h.GSO_NONE:
                refused.append(len(pieces))
                return "tun-refused"
            return real(pieces)

        bench.tun.write = write  # type: ignore[method-assign]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.setblocking(False)
            server.bind(("10.0.0.2", 443))
            flow = Flow(tcp=False)
            for _ in range(2):
                payloads = [bytes([number]) * 1200 for number in range(20)]
                run = b"".join(BLANK + flow.packet(payload) + BLANK for payload in payloads)
                size = len(run) // 20
                control = [(socket.IPPROTO_UDP, 103, size.to_bytes(2, sys.byteorder))]
                bench.outer.sendmsg([run], control, 0, ("127.0.0.1", bench.device.listen_port))
                assert [await bench.loop.sock_recv(server, 2000) for _ in payloads] == payloads
        assert len(refused) == 1
        assert bench.engine.status().offloads[TUN_UDP] == "the kernel refused a superpacket (EINVAL)"
        assert bench.device.counters == {}

    run(machine, work)


def test_what_exceeds_a_run_goes_with_the_next_superpacket(machine: Machine) -> None:
    """Three superpackets of 47 segments that wait together become runs of 45 and one of 6."""

    async def work(bench: Bench) -> None:
        await bench.up()
        bench.inner.setsockopt(socket.IPPROTO_UDP, 103, 1392)
        bench.outer.setsockopt(socket.SOL_SOCKET, 33, 1 << 20)  # SO_RCVBUFFORCE: all wait at once
        payload = bytes(range(256)) * 4 * 64
        payload = payload[: 1392 * 47]
        for _ in range(3):
            bench.inner.sendto(payload, ("10.0.0.1", 443))
        packets = [await bench.outward() for _ in range(3 * 47)]
        assert b"".join(packet[28:] for packet in packets) == payload * 3
        assert bench.device.runs == [45, 45, 45, 6]

    run(machine, work)


def test_the_mtu_of_the_link_is_the_device_s(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        await bench.ip("link", "set", bench.tun.name, "mtu", "1280")
        await bench.until(lambda: bench.device.mtu == 1280)

    run(machine, work)


def test_down_closes_the_port_and_up_opens_the_same(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        port = bench.device.listen_port
        await bench.ip("link", "set", bench.tun.name, "down")
        await bench.until(lambda: bench.engine._sender.udp is None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("0.0.0.0", port))
        await bench.ip("link", "set", bench.tun.name, "up")
        await bench.until(lambda: bench.engine._sender.udp is not None)
        assert bench.device.listen_port == port

    run(machine, work)


def test_another_port_is_used_at_once(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        before = bench.device.listen_port
        bench.configure(DeviceChange(listen_port=0))
        assert bench.device.listen_port not in (0, before)
        bench.inner.sendto(b"from there", ("10.0.0.1", 443))
        await bench.outward()
        bench.inner.sendto(b"and again", ("10.0.0.1", 443))
        bench.outer.setblocking(True)
        _, address = await bench.loop.run_in_executor(None, bench.outer.recvfrom, 65536)
        assert address == ("127.0.0.1", bench.device.listen_port)

    run(machine, work)


def test_a_port_in_use_changes_nothing(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        before = bench.device.listen_port
        taken = bench.outer.getsockname()[1]
        with pytest.raises(UapiError) as raised:
            bench.configure(DeviceChange(listen_port=taken, fwmark=5))
        assert raised.value.errno == errno.EADDRINUSE
        assert bench.device.changes == []
        assert bench.engine.state().listen_port == before

    run(machine, work)


def test_a_port_in_use_when_the_link_comes_up(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        bench.device.listen_port = bench.outer.getsockname()[1]
        bench.engine.start()
        await bench.ip("link", "set", bench.tun.name, "up")
        await bench.until(lambda: bench.engine._state.up)
        assert bench.engine._sender.udp is None
        bench.configure(DeviceChange(listen_port=0))
        assert bench.engine.state().listen_port > 0

    run(machine, work)


def test_the_mark_changes_without_another_port(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        before = bench.device.listen_port
        bench.configure(DeviceChange(fwmark=9))
        udp = bench.engine._sender.udp
        assert udp is not None
        assert [one._socket.getsockopt(socket.SOL_SOCKET, 36) for one in udp.sockets] == [9, 9]
        assert bench.device.listen_port == before

    run(machine, work)


def test_what_the_socket_does_not_take_waits(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        udp = bench.engine._sender.udp
        assert udp is not None
        refused: list[Transmit] = []
        send = udp.send

        def full(transmit: Transmit) -> str:
            refused.append(transmit)
            if len(refused) < 3:
                raise BlockingIOError
            return send(transmit)

        # A socket buffer that is full cannot be had on loopback: its packets are taken out at once.
        monkeypatch.setattr(udp, "send", full)
        bench.inner.sendto(b"one", ("10.0.0.1", 443))
        bench.inner.sendto(b"two", ("10.0.0.1", 443))
        assert (await bench.outward())[28:] == b"one"
        assert (await bench.outward())[28:] == b"two"
        assert len(refused) >= 3
        assert not bench.engine._sender.blocked

    run(machine, work)


def test_a_deleted_link_ends_the_engine(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        await bench.ip("link", "del", bench.tun.name)
        assert await bench.ended == ""

    run(machine, work)


def test_drops_are_counted_by_reason(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        bench.inward(b"\x00 is no IP packet")
        await bench.until(lambda: bench.engine.state().counters.get("tun-refused") == 1)
        bench.device.peer = Endpoint("192.0.2.1", 5)
        bench.inner.sendto(b"lost", ("10.0.0.1", 443))
        await bench.until(lambda: "udp-unreachable" in bench.engine.state().counters)

    run(machine, work)


def test_a_machine_that_slept_is_older_and_waits_for_no_timer(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[float] = []

    async def work(bench: Bench) -> None:
        await bench.up()
        due = boottime() + 600
        monkeypatch.setattr(bench.device, "next_timeout", lambda: None if served else due)
        monkeypatch.setattr(bench.device, "handle_timeout", served.append)
        bench.engine._flush(boottime())
        monkeypatch.setattr("raven.dataplane.engine.boottime", lambda: boottime() + 3600)
        # Any packet flushes, and so many do not put the timer off.
        while not served:
            bench.engine._flush(boottime() + 3600)
            await asyncio.sleep(0)
        assert served[0] > due + 2900

    run(machine, work)
