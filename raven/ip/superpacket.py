"""A superpacket on its way to another host: what must hold of one, and its virtio header made anew there.

`gso` cuts superpackets and `run` makes them; here they stay whole. The sender sends only the segment's size
beside the packet, and the receiver derives the rest from the packet itself, so nothing it hands to its kernel
rests on a header that somebody else wrote.
"""

import struct
from typing import Final, NamedTuple

from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.checksum import fold, ones_complement_sum

# Of one superpacket. TCP with the least common segment, 536 bytes, makes 122 of 64 KiB; Linux lets UDP have
# 128. So no peer makes our kernel cut 64 KiB into a packet for each byte.
SEGMENTS_MAX: Final = 128

_U16 = struct.Struct("!H")
_MORE_OR_OFFSET: Final = 0x3FFF  # of the IPv4 fragment field
_NEVER_SEGMENTED: Final = 0x02 | 0x04 | 0x20  # SYN, RST, URG: no kernel makes superpackets of these


class _Headers(NamedTuple):
    gso_type: int
    start: int  # of the transport header
    length: int  # of all headers
    total: int  # bytes of the packet as its IP header says


def segment_size(virtio: h.Virtio, packet: memoryview) -> int:
    """The bytes of a whole segment of `packet`; 0 when `restore_untrusted` would not take it.

    What `virtio` says is our own kernel's, and here only compared.
    """
    try:
        headers = _read_untrusted(packet, virtio.gso_size)
    except PeerError:
        return 0
    fits = (
        headers.total == len(packet)
        and virtio.flags & h.NEEDS_CSUM
        and virtio.gso_type & ~h.GSO_ECN == headers.gso_type
        and virtio.csum_start == headers.start
    )
    return headers.length + virtio.gso_size if fits else 0


def restore_untrusted(room: memoryview, gso_size: int) -> int:
    """Writes the virtio header that belongs to the packet behind it in `room`; the length of both.

    The transport checksum becomes what the kernel expects of one that is still open. PeerError(
    "inner-malformed") when it is no superpacket of TCP or UDP, whole, without IP options.
    """
    packet = room[h.VIRTIO_LEN :]
    gso_type, start, length, total = _read_untrusted(packet, gso_size)
    if total > len(packet):
        raise _malformed("is shorter than it says")
    if gso_type == h.GSO_UDP_L4:
        protocol, checksum_offset = h.PROTOCOL_UDP, h.UDP_CHECKSUM
        if _U16.unpack_from(packet, start + h.UDP_LENGTH)[0] != total - start:
            raise _malformed("has another length in its UDP header")
    else:
        protocol, checksum_offset = h.PROTOCOL_TCP, h.TCP_CHECKSUM
        if packet[start + h.TCP_FLAGS] & h.CWR:
            gso_type |= h.GSO_ECN
    address_at = h.IPV4_SOURCE if start == h.IPV4_LEN else h.IPV6_SOURCE
    pseudo = ones_complement_sum(packet[address_at:start]) + protocol + total - start
    _U16.pack_into(packet, start + checksum_offset, fold(pseudo))
    virtio = h.Virtio(h.NEEDS_CSUM, gso_type, length, gso_size, start, checksum_offset)
    room[: h.VIRTIO_LEN] = virtio.pack()
    return h.VIRTIO_LEN + total


def _read_untrusted(packet: memoryview, gso_size: int) -> _Headers:
    size = len(packet)
    version = packet[0] >> 4 if size else 0
    if version == 4 and size >= h.IPV4_LEN:
        if packet[0] != 0x45 or _U16.unpack_from(packet, h.IPV4_FRAGMENT)[0] & _MORE_OR_OFFSET:
            raise _malformed("has IP options, or is a fragment")
        start, protocol = h.IPV4_LEN, packet[9]
        total = _U16.unpack_from(packet, h.IPV4_TOTAL_LENGTH)[0]
    elif version == 6 and size >= h.IPV6_LEN:
        start, protocol = h.IPV6_LEN, packet[6]
        total = _U16.unpack_from(packet, h.IPV6_PAYLOAD_LENGTH)[0] + h.IPV6_LEN
    else:
        raise _malformed("is no IP packet")
    if protocol == h.PROTOCOL_TCP and size >= start + h.TCP_LEN:
        gso_type = h.GSO_TCPV4 if version == 4 else h.GSO_TCPV6
        length = start + (packet[start + h.TCP_DATA_OFFSET] >> 4) * 4
        if length < start + h.TCP_LEN or packet[start + h.TCP_FLAGS] & _NEVER_SEGMENTED:
            raise _malformed("has a TCP header that is never segmented")
    elif protocol == h.PROTOCOL_UDP and size >= start + h.UDP_LEN:
        gso_type, length = h.GSO_UDP_L4, start + h.UDP_LEN
    else:
        raise _malformed("is neither TCP nor UDP")
    payload = total - length
    if not 0 < gso_size < payload <= gso_size * SEGMENTS_MAX:
        raise _malformed(f"has {payload} bytes for segments of {gso_size}")
    return _Headers(gso_type, start, length, total)


def _malformed(why: str) -> PeerError:
    return PeerError("inner-malformed", f"the superpacket {why}")
