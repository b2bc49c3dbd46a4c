"""Lowers the maximum segment size that a TCP SYN announces, so that what is sent to it fits a tunnel.

Path MTU discovery would find the same size, one lost segment later, where the ICMP messages it needs get
through (RFC 4459, section 3.2, weighs the ways). The checksum is corrected by what changed (RFC 1624), so a
packet that was damaged stays so. Options are hostile input: nothing is read or written outside the header.
"""

import struct
from typing import Final

from raven.ip import header as h

# A SYN with all its headers and options but without data. Data in a SYN (RFC 7413) is rare, and costs such a
# flow its first lost segment only; it is not worth a look at every full packet.
SYN_MAX: Final = h.IPV6_LEN + 60 + 60  # bytes

_SYN: Final = 0x02
_OPTION_END, _OPTION_NOP, _OPTION_MSS = 0, 1, 2
_MSS_LEN: Final = 4  # kind, length, u16
_FRAGMENT_OFFSET: Final = 0x1FFF
_MSS_MIN: Final = 48  # bytes; Linux itself sends no smaller segments (TCP_MIN_SND_MSS)
_U16 = struct.Struct("!H")


def clamp_mss(packet: memoryview, mtu: int) -> bool:
    """Lowers the MSS in `packet`, in place, to what an IP packet of `mtu` bytes holds; whether it did.

    Anything but a whole TCP SYN with a larger MSS stays as it is.
    """
    size = len(packet)
    if size < h.IPV4_LEN:
        return False
    if packet[0] >> 4 == 4:
        start, headers = (packet[0] & 0xF) * 4, h.IPV4_LEN + h.TCP_LEN
        if packet[9] != h.PROTOCOL_TCP or _U16.unpack_from(packet, h.IPV4_FRAGMENT)[0] & _FRAGMENT_OFFSET:
            return False
    else:
        start, headers = h.IPV6_LEN, h.IPV6_LEN + h.TCP_LEN
        if size < h.IPV6_LEN or packet[6] != h.PROTOCOL_TCP:
            return False
    if start < h.IPV4_LEN or size < start + h.TCP_LEN or not packet[start + h.TCP_FLAGS] & _SYN:
        return False
    at = _find_mss(packet, start)
    limit = max(_MSS_MIN, mtu - headers)
    if not at:
        return False
    (announced,) = _U16.unpack_from(packet, at)
    if announced <= limit:
        return False
    _U16.pack_into(packet, at, limit)
    old, new = announced, limit
    if (at - start) & 1:  # an option may start anywhere; its bytes then count in two words
        old, new = _swapped(old), _swapped(new)
    checksum_at = start + h.TCP_CHECKSUM
    total = (~_U16.unpack_from(packet, checksum_at)[0] & 0xFFFF) + (~old & 0xFFFF) + new
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    _U16.pack_into(packet, checksum_at, ~total & 0xFFFF)
    return True


def _find_mss(packet: memoryview, start: int) -> int:
    """Where the value of the MSS option lies; 0 when there is none, or the options make no sense."""
    at = start + h.TCP_LEN
    end = start + (packet[start + h.TCP_DATA_OFFSET] >> 4) * 4
    if end > len(packet):
        return 0
    while at < end:
        kind = packet[at]
        if kind == _OPTION_END:
            return 0
        if kind == _OPTION_NOP:
            at += 1
            continue
        if at + 2 > end:
            return 0
        length = packet[at + 1]
        if length < 2 or at + length > end:
            return 0
        if kind == _OPTION_MSS:
            return at + 2 if length == _MSS_LEN else 0
        at += length
    return 0


def _swapped(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8
