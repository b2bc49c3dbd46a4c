"""Finishes the checksum that the kernel leaves open in a packet it gives to a TUN device."""

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
