"""The checksum that the kernel leaves open in a packet it gives to a TUN device: verified, and finished."""

import struct

from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.checksum import ones_complement_sum

_U16 = struct.Struct("!H")


def complete_checksum(virtio: h.Virtio, packet: memoryview) -> None:
    """Finishes in place the checksum that NEEDS_CSUM left open; PeerError when it lies outside `packet`."""
    start = virtio.csum_start
    at = start + virtio.csum_offset
    if at + 2 > len(packet):
        raise PeerError("tun-checksum", f"checksum at {at} of a packet of {len(packet)} bytes")
    value = ~ones_complement_sum(packet[start:]) & 0xFFFF
    # As the kernel's skb_checksum_help: zero means "none" to UDP, and the other spelling suits everyone.
    _U16.pack_into(packet, at, value or 0xFFFF)


def check_open_checksum(virtio: h.Virtio, packet: memoryview) -> None:
    """PeerError when an open checksum is not the sum that it has to start with: of the pseudo-header.

    Nothing is said of closed ones, nor of packets with IP options or further headers inside, whose sums may
    be another header's.
    """
    start = virtio.csum_start
    at = start + virtio.csum_offset
    if not virtio.flags & h.NEEDS_CSUM or len(packet) < at + 2 or start not in (h.IPV4_LEN, h.IPV6_LEN):
        return
    if packet[0] != 0x45 if start == h.IPV4_LEN else packet[0] >> 4 != 6:
        return
    source, protocol_at = (h.IPV4_SOURCE, 9) if start == h.IPV4_LEN else (h.IPV6_SOURCE, 6)
    pseudo = ones_complement_sum(packet[source:start]) + packet[protocol_at] + len(packet) - start
    if (_U16.unpack_from(packet, at)[0] - pseudo) % 0xFFFF:
        raise PeerError("tun-checksum", "the open checksum is not that of the pseudo-header")
