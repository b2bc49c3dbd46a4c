"""A real TUN device in a namespace of its own: superpackets out and in, refusals, and the link's end."""

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from raven.dataplane.tun import READ_MAX, LinkGone, Tun, TunError, check_name
from raven.ip import header as h
from raven.ip.gro import Joiner
from raven.ip.gso import Cutter
from tests.ip.model import Flow
from tests.lab.machine import Machine

UDP_SEGMENT = 103


@contextmanager
def opened(machine: Machine) -> Iterator[Tun]:
    """A TUN device, up, with 10.0.0.2/24."""
    tun = machine.inside(lambda: Tun(machine.interface, mtu=1420))
    try:
        machine.run("ip", "addr", "add", "10.0.0.2/24", "dev", tun.name)
        machine.run("ip", "link", "set", tun.name, "up")
        yield tun
    finally:
        tun.close()


def read_until(tun: Tun, wanted: Callable[[h.Virtio, memoryview], bool]) -> tuple[h.Virtio, memoryview]:
    """The first packet that is `wanted`; the kernel sends some of its own."""
    for _ in range(50):
        assert select.select([tun], [], [], 5)[0], "nothing to read"
        buffer = memoryview(bytearray(READ_MAX))
        size = tun.read_into(buffer)
        virtio, packet = h.Virtio.unpack_from(buffer), buffer[h.VIRTIO_LEN : size]
        if size and wanted(virtio, packet):
            return virtio, packet
    raise AssertionError("not among 50 packets")


def _udp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def to_port_443(_: h.Virtio, packet: memoryview) -> bool:
    return packet[0] == 0x45 and packet[9] == h.PROTOCOL_UDP and bytes(packet[22:24]) == b"\x01\xbb"


@pytest.mark.parametrize("name", ["", "sixteen-letters-", "a/b", "a b", "a:b", ".", "..", "wg%d", "ä" * 8])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(TunError) as raised:
        check_name(name)
    assert "is no interface name" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.netns
def test_a_name_that_is_taken_is_refused(machine: Machine) -> None:
    with pytest.raises(TunError, match="exists and is no TUN link"):
        machine.inside(lambda: Tun("lo", mtu=1420))
    with opened(machine) as tun, pytest.raises(TunError, match="another process has it"):
        machine.inside(lambda: Tun(tun.name, mtu=1420))


@pytest.mark.netns
def test_the_link_has_the_mtu_and_goes_with_the_device(machine: Machine) -> None:
    with opened(machine) as tun:
        assert "mtu 1420" in machine.run("ip", "link", "show", tun.name).out
        assert tun.index == machine.inside(lambda: socket.if_nametoindex(tun.name))
    assert machine.run("ip", "link", "show", tun.name, check=False).code == 1


@pytest.mark.netns
def test_a_superpacket_is_read_and_cut(machine: Machine) -> None:
    """Where the kernel is too old for UDP superpackets (before 6.2) the same segments come one by one."""
    with opened(machine) as tun:
        payload = bytes(range(250)) * 20
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1200))]
        with machine.inside(_udp_socket) as sender:
            sender.sendmsg((payload,), control, 0, ("10.0.0.1", 443))
        segments: list[bytes] = []
        while len(segments) < 5:
            virtio, packet = read_until(tun, to_port_443)
            if tun.segments_udp:
                assert (virtio.gso_type, virtio.gso_size) == (h.GSO_UDP_L4, 1200)
                segments += map(bytes, Cutter().cut(virtio, packet))
            else:
                segments.append(bytes(packet))
        assert [len(segment) for segment in segments] == [1228, 1228, 1228, 1228, 228]
        assert b"".join(segment[28:] for segment in segments) == payload


@pytest.mark.netns
def test_an_open_checksum_is_read(machine: Machine) -> None:
    with opened(machine) as tun:
        with machine.inside(_udp_socket) as sender:
            sender.sendto(b"x" * 100, ("10.0.0.1", 443))
        virtio, _ = read_until(tun, to_port_443)
        assert virtio.gso_type == h.GSO_NONE
        assert (virtio.flags, virtio.csum_start, virtio.csum_offset) == (h.NEEDS_CSUM, 20, 6)


@pytest.mark.netns
def test_what_is_written_arrives(machine: Machine) -> None:
    with opened(machine) as tun, machine.inside(_udp_socket) as receiver:
        receiver.bind(("10.0.0.2", 443))
        receiver.settimeout(5)
        # The model sends from 10.0.0.1 to 10.0.0.2.
        packets = Flow(tcp=False).cut(bytes(range(250)) * 40, 1000)
        joiner = Joiner(udp=tun.segments_udp)
        writes = joiner.join([memoryview(packet) for packet in packets])
        assert len(writes) == (1 if tun.segments_udp else 10)
        assert [tun.write(write) for write in writes] == [""] * len(writes)
        assert b"".join(receiver.recv(2000) for _ in packets) == bytes(range(250)) * 40
        assert tun.write([h.PLAIN, memoryview(packets[0])]) == ""
        assert receiver.recv(2000) == packets[0][28:]


@pytest.mark.netns
def test_reasons_of_refused_writes(machine: Machine) -> None:
    with opened(machine) as tun:
        assert tun.write([h.PLAIN, b"\x00nonsense"]) == "tun-refused"
        machine.run("ip", "link", "set", tun.name, "down")
        assert tun.write([h.PLAIN, Flow().packet(b"x")]) == "tun-link-down"


@pytest.mark.netns
def test_nothing_to_read_is_no_error(machine: Machine) -> None:
    tun = machine.inside(lambda: Tun(machine.interface, mtu=1420))
    assert tun.read_into(memoryview(bytearray(READ_MAX))) == 0
    tun.close()


@pytest.mark.netns
def test_a_deleted_link_is_noticed(machine: Machine) -> None:
    tun = machine.inside(lambda: Tun(machine.interface, mtu=1420))
    machine.run("ip", "link", "del", tun.name)
    with pytest.raises(LinkGone):
        tun.read_into(memoryview(bytearray(READ_MAX)))
    with pytest.raises(LinkGone):
        tun.write([h.PLAIN, Flow().packet(b"x")])
    tun.close()
