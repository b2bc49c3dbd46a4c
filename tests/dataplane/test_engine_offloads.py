"""Offloads that go off in the engine: what a trial found spoilt, and what contradicts itself in use."""

import asyncio
import socket

import pytest

from raven.dataplane.offloads import TUN_CHECKSUM, TUN_TCP, TUN_UDP, Offloads
from raven.ip import header as h
from tests.dataplane.bench import Bench, run
from tests.lab.machine import Machine

pytestmark = pytest.mark.netns


def test_superpackets_that_contradict_themselves_are_asked_for_no_more(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        real, wrong = bench.tun.read_into, 0

        def read_into(buffer: memoryview) -> int:
            nonlocal wrong
            size = real(buffer)
            if size and h.Virtio.unpack_from(buffer).gso_type == h.GSO_UDP_L4:
                wrong += 1
                buffer[4:6] = bytes(2)  # segments of no size
            return size

        bench.tun.read_into = read_into  # type: ignore[method-assign]
        bench.inner.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        payload = bytes(range(250)) * 16
        for _ in range(8):
            bench.inner.sendto(payload, ("10.0.0.1", 443))
        await bench.until(lambda: bool(bench.engine.status().offloads[TUN_TCP]))
        bench.inner.sendto(payload, ("10.0.0.1", 443))
        packets = [await bench.outward() for _ in range(4)]
        assert b"".join(packet[28:] for packet in packets) == payload
        assert wrong == 8

    run(machine, work)


def test_checksums_that_contradict_their_packets_are_noticed_by_sampling(machine: Machine) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        real, wrong = bench.tun.read_into, 0

        def read_into(buffer: memoryview) -> int:
            nonlocal wrong
            size = real(buffer)
            virtio = h.Virtio.unpack_from(buffer)
            if size and virtio.flags & h.NEEDS_CSUM and virtio.csum_offset == h.UDP_CHECKSUM:
                wrong += 1
                buffer[h.VIRTIO_LEN + virtio.csum_start + virtio.csum_offset] ^= 0x55
            return size

        bench.tun.read_into = read_into  # type: ignore[method-assign]
        bench.inner.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        payload = bytes(range(250)) * 16
        while not bench.engine.status().offloads[TUN_CHECKSUM]:
            bench.inner.sendto(payload, ("10.0.0.1", 443))
            await asyncio.sleep(0)
        assert wrong < 8 * 64 + 64
        assert "contradict their headers" in bench.engine.status().offloads[TUN_UDP]
        assert bench.device.counters["tun-checksum"] == 8

    run(machine, work)


@pytest.mark.parametrize(
    ("failed", "off", "superpackets"),
    [
        (TUN_UDP, {TUN_UDP}, (True, False)),
        (TUN_TCP, {TUN_TCP}, (False, True)),
        (TUN_CHECKSUM, {TUN_CHECKSUM, TUN_TCP, TUN_UDP}, (False, False)),
    ],
)
def test_what_the_trial_found_spoilt_is_not_asked_of_the_kernel(
    machine: Machine, failed: str, off: set[str], superpackets: tuple[bool, bool]
) -> None:
    async def work(bench: Bench) -> None:
        await bench.up()
        if TUN_UDP in bench.tun.refused_offloads() and failed == TUN_TCP:
            pytest.skip("this kernel has no UDP superpackets for TUN devices")
        assert (bench.tun.segments_tcp, bench.tun.segments_udp) == superpackets
        assert {name for name, why in bench.engine.status().offloads.items() if why} == off
        bench.inner.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        payload = bytes(range(250)) * 16
        bench.inner.sendto(payload, ("10.0.0.1", 443))
        packets = [await bench.outward() for _ in range(4)]
        assert b"".join(packet[28:] for packet in packets) == payload

    run(machine, work, Offloads({failed: "spoilt"}))
