"""What a kernel makes of packets on their way through a TUN device: both ways, compared byte by byte.

A socket of this network namespace talks to a peer behind the TUN device, which is played here: the kernel's
superpackets and open checksums are read and verified, and superpackets of ours must reach the socket as they
were. `trial` makes the namespace and the device; nobody else may use either.
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from raven.dataplane.offloads import TUN_CHECKSUM, TUN_TCP, TUN_UDP
from raven.dataplane.tun import READ_MAX, Tun
from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.checksum import checksum, ones_complement_sum
from raven.ip.open_checksum import complete_checksum
from raven.ip.superpacket import restore_untrusted, segment_size

_SEGMENT: Final = 500  # bytes; not a multiple of 8, and three of them and a half make a superpacket
_WAIT: Final = 0.5  # seconds for what the kernel does at once, unless the machine is very busy
_PORT: Final = 443  # of the peer that is played
_ADDRESSES: Final = {
    # ours, the peer's; for documentation (RFC 5737, 3849)
    socket.AF_INET: (ip_address("192.0.2.1"), ip_address("192.0.2.2")),
    socket.AF_INET6: (ip_address("2001:db8::1"), ip_address("2001:db8::2")),
}
_UDP_SEGMENT: Final = 103
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8916, 0x891C, 0x8913, 0x8914
_IFF_UP: Final = 1
_SYN: Final = 0x02
_TCP = struct.Struct("!HHIIBBHHH")  # ports, sequence, ack, length of the header / 4 << 4, flags, window, ...
_LINGER_RESET = struct.pack("ii", 1, 0)


class _Spoilt(Exception):
    """What an offload did came out different; the offload's name, and why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


def try_traffic(tun: Tun) -> dict[str, str]:
    """The offloads of `tun` that lose or spoil what they carry, with the reason."""
    failures: dict[str, str] = {}
    for family in _configured(tun):
        version = "IPv4" if family == socket.AF_INET else "IPv6"
        for attempt in (_udp_out, _udp_in, _tcp):
            try:
                attempt(tun, family)
            except _Spoilt as spoilt:
                failures.setdefault(spoilt.name, f"{spoilt}, with {version}")
    return failures


def _configured(tun: Tun) -> Iterator[socket.AddressFamily]:
    """Sets the link up, and gives the families that the kernel has for it."""
    name = tun.name.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, address in (
            (_SIOCSIFADDR, _ADDRESSES[socket.AF_INET][0].packed),
            (_SIOCSIFNETMASK, b"\xff\xff\xff\x00"),
        ):
            fcntl.ioctl(control, request, struct.pack("16sHH4s8x", name, socket.AF_INET, 0, address))
        _, flags = struct.unpack("16sh22x", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", name)))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", name, flags | _IFF_UP))
    yield socket.AF_INET
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            # struct in6_ifreq: address, length of the prefix, interface
            packed = _ADDRESSES[socket.AF_INET6][0].packed
            fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("=16sIi", packed, 64, tun.index))
    except OSError:
        return  # no IPv6 in this kernel, so none to carry
    if _is_usable(_ADDRESSES[socket.AF_INET6][0]):
        yield socket.AF_INET6


def _is_usable(address: IPv4Address | IPv6Address) -> bool:
    """Whether a socket can have the IPv6 address; the kernel takes a moment to look who else has it."""
    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as attempt, contextlib.suppress(OSError):
            attempt.bind((str(address), 0))
            return True
        time.sleep(0.001)
    return False


def _udp_out(tun: Tun, family: socket.AddressFamily) -> None:
    ours, peer = _ADDRESSES[family]
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.bind((str(ours), 0))
        content = os.urandom(_SEGMENT)
        sender.sendto(content, (str(peer), _PORT))
        if _collect(tun, h.PROTOCOL_UDP, len(content)) != content:
            raise _Spoilt(TUN_CHECKSUM, "a packet of the kernel's came out different")
        if not tun.segments_udp:
            return
        content = os.urandom(3 * _SEGMENT + _SEGMENT // 2)
        control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", _SEGMENT))]
        sender.sendmsg((content,), control, 0, (str(peer), _PORT))
        if _collect(tun, h.PROTOCOL_UDP, len(content)) != content:
            raise _Spoilt(TUN_UDP, "a superpacket of the kernel's came out different")


def _udp_in(tun: Tun, family: socket.AddressFamily) -> None:
    if not tun.segments_udp:
        return
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((str(_ADDRESSES[family][0]), 0))
        receiver.settimeout(_WAIT)
        content = os.urandom(3 * _SEGMENT + _SEGMENT // 2)
        head = struct.pack("!HHHH", _PORT, receiver.getsockname()[1], h.UDP_LEN + len(content), 0)
        _write_superpacket(tun, TUN_UDP, _packet(family, h.PROTOCOL_UDP, head + content))
        try:
            received = [receiver.recv(65535) for _ in range(4)]
        except TimeoutError:
            raise _Spoilt(TUN_UDP, "a superpacket for the kernel was lost") from None
    if received != [content[at : at + _SEGMENT] for at in range(0, len(content), _SEGMENT)]:
        raise _Spoilt(TUN_UDP, "a superpacket for the kernel came out different")


def _tcp(tun: Tun, family: socket.AddressFamily) -> None:
    """A connection by hand: both ways one superpacket's worth."""
    if not tun.segments_tcp:
        return
    ours, peer = _ADDRESSES[family]
    sequence = int.from_bytes(os.urandom(3), "big")

    def write(flags: int, ack: int, options: bytes = b"") -> None:
        tun.write([h.PLAIN, _packet(family, h.PROTOCOL_TCP, segment(flags, ack, options), finish=True)])

    def segment(flags: int, ack: int, rest: bytes = b"") -> bytes:
        length = (_TCP.size + (len(rest) if flags & _SYN else 0)) // 4 << 4
        return _TCP.pack(_PORT, port, sequence, ack, length, flags, 65535, 0, 0) + rest

    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller.bind((str(ours), 0))
        caller.setblocking(False)
        if (code := caller.connect_ex((str(peer), _PORT))) not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        port = caller.getsockname()[1]
        transport = _next(tun, h.PROTOCOL_TCP)
        if transport is None:
            raise _Spoilt(TUN_CHECKSUM, "a packet of the kernel's was lost")
        ack = (struct.unpack_from("!I", transport, h.TCP_SEQUENCE)[0] + 1) & 0xFFFFFFFF
        write(_SYN | h.ACK, ack, struct.pack("!BBH", 2, 4, _SEGMENT))  # the largest segment that we take
        sequence += 1
        if not select.select([], [caller], [], _WAIT)[1]:
            raise _Spoilt(TUN_CHECKSUM, "the kernel did not take a packet")
        content = os.urandom(3 * _SEGMENT + _SEGMENT // 2)
        caller.send(content)
        if _collect(tun, h.PROTOCOL_TCP, len(content)) != content:
            raise _Spoilt(TUN_TCP, "a superpacket of the kernel's came out different")
        ack = (ack + len(content)) & 0xFFFFFFFF
        write(h.ACK, ack)
        answer = os.urandom(3 * _SEGMENT + _SEGMENT // 2)
        _write_superpacket(tun, TUN_TCP, _packet(family, h.PROTOCOL_TCP, segment(h.ACK | h.PSH, ack, answer)))
        caller.settimeout(_WAIT)
        received = b""
        try:
            while len(received) < len(answer) and (more := caller.recv(65535)):
                received += more
        except TimeoutError:
            raise _Spoilt(TUN_TCP, "a superpacket for the kernel was lost") from None
        if received != answer:
            raise _Spoilt(TUN_TCP, "a superpacket for the kernel came out different")


def _packet(family: socket.AddressFamily, protocol: int, transport: bytes, *, finish: bool = False) -> bytes:
    """From the peer to us; its transport checksum stays zero unless `finish`."""
    ours, peer = _ADDRESSES[family]
    addresses = peer.packed + ours.packed
    if finish:
        start = ones_complement_sum(addresses) + protocol + len(transport)
        at = h.TCP_CHECKSUM if protocol == h.PROTOCOL_TCP else h.UDP_CHECKSUM
        transport = transport[:at] + struct.pack("!H", checksum(transport, start)) + transport[at + 2 :]
    if family == socket.AF_INET6:
        return struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64) + addresses + transport
    head = struct.pack("!BBHHHBBH", 0x45, 0, h.IPV4_LEN + len(transport), 1, 0x4000, 64, protocol, 0)
    summed = struct.pack("!H", checksum(head + addresses))
    return head[: h.IPV4_CHECKSUM] + summed + addresses + transport


def _write_superpacket(tun: Tun, name: str, packet: bytes) -> None:
    room = memoryview(bytearray(h.VIRTIO_LEN) + packet)
    restore_untrusted(room, _SEGMENT)
    if reason := tun.write([room]):
        raise _Spoilt(name, f"the kernel refused a superpacket ({reason})")


def _collect(tun: Tun, protocol: int, size: int) -> bytes:
    """The content of the packets that the kernel sends next: `size` bytes, or less when no more come."""
    content = b""
    while len(content) < size and (transport := _next(tun, protocol)) is not None:
        head = h.UDP_LEN if protocol == h.PROTOCOL_UDP else (transport[h.TCP_DATA_OFFSET] >> 4) * 4
        content += transport[head:]
    return content


def _next(tun: Tun, protocol: int) -> bytes | None:
    """The transport header and content of the kernel's next packet of that protocol, once it is verified."""
    deadline = time.monotonic() + _WAIT
    room = memoryview(bytearray(READ_MAX))
    while select.select([tun], [], [], max(0.0, deadline - time.monotonic()))[0]:
        size = tun.read_into(room)
        if size <= h.VIRTIO_LEN:
            continue
        packet = room[h.VIRTIO_LEN : size]
        start = h.IPV4_LEN if packet[0] >> 4 == 4 else h.IPV6_LEN
        if packet[9 if start == h.IPV4_LEN else 6] == protocol:  # and not the kernel's own ICMPv6
            _verify(h.Virtio.unpack_from(room), packet, start, protocol)
            return bytes(packet[start:])
    return None


def _verify(virtio: h.Virtio, packet: memoryview, start: int, protocol: int) -> None:
    """_Spoilt unless header and checksums are as they must be."""
    name = {h.GSO_NONE: TUN_CHECKSUM, h.GSO_UDP_L4: TUN_UDP}.get(virtio.gso_type & ~h.GSO_ECN, TUN_TCP)
    if virtio.gso_type == h.GSO_NONE:
        try:
            if virtio.flags & h.NEEDS_CSUM:
                complete_checksum(virtio, packet)
        except PeerError as error:
            raise _Spoilt(name, str(error)) from error
    elif not segment_size(virtio, packet):
        raise _Spoilt(name, "a superpacket of the kernel's contradicts its header")
    source = h.IPV4_SOURCE if start == h.IPV4_LEN else h.IPV6_SOURCE
    pseudo = ones_complement_sum(packet[source:start]) + protocol + len(packet) - start
    if virtio.gso_type == h.GSO_NONE:
        wrong = checksum(packet[start:], pseudo) != 0
    else:
        at = start + virtio.csum_offset
        wrong = (int.from_bytes(packet[at : at + 2], "big") - pseudo) % 0xFFFF != 0
    if wrong or (start == h.IPV4_LEN and checksum(packet[:start]) != 0):
        raise _Spoilt(name, "a checksum of the kernel's is wrong")
