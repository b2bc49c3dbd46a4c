"""What a router does with a packet that does not fit the next link: tells its sender, or cuts it.

RFC 1191 and RFC 8201 for the message, RFC 791 and RFC 8200 for the fragments. Plain functions over one
packet; `raven.wg` decides which packet is too large for whom, and how often somebody is told.
"""

import struct
from typing import Final

from raven.ip import header as h
from raven.ip.checksum import checksum

IPV6_MTU_MIN: Final = 1280  # bytes; a sender need not go below (RFC 8200, section 5)

_PROTOCOL_ICMP, _PROTOCOL_ICMPV6, _PROTOCOL_FRAGMENT = 1, 58, 44
_QUOTED_V4: Final = 576 - h.IPV4_LEN - 8  # bytes of the packet that a message carries (RFC 1812, 4.3.2.3)
_QUOTED_V6: Final = IPV6_MTU_MIN - h.IPV6_LEN - 8  # RFC 4443, section 2.4 (c)
_HOPS: Final = 64
_DONT_FRAGMENT, _MORE, _OFFSET = 0x4000, 0x2000, 0x1FFF
_ICMP_ERRORS: Final = (3, 4, 5, 11, 12)  # RFC 1122, 3.2.2: nobody is told of these
_ICMPV6_ERRORS_BELOW: Final = 128

# ICMP: u8 type 3, u8 code 4, u16 checksum, u16 unused, u16 MTU of the next hop
_ICMP = struct.Struct("!BBHHH")
# ICMPv6: u8 type 2, u8 code 0, u16 checksum, u32 MTU
_ICMPV6 = struct.Struct("!BBHI")
# u8 version and IHL, u8 TOS, u16 total length, u16 identification, u16 fragment, u8 TTL, u8 protocol,
# u16 checksum, source, destination
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
# u32 version, class and flow, u16 payload length, u8 next header, u8 hop limit, source, destination
_IPV6 = struct.Struct("!IHBB16s16s")
# IPv6's Fragment header: u8 next header, u8 reserved, u16 offset in 8 bytes (13 bits) and M, u32
# identification
_FRAGMENT = struct.Struct("!BBHI")
_PSEUDO_V6 = struct.Struct("!16s16sI3xB")


def must_be_cut(packet: memoryview) -> bool:
    """Whether a router may not ask the sender of this packet, too large for the link, for smaller ones.

    IPv4 without "don't fragment", and IPv6 of at most 1280 bytes: RFC 8200, section 5, leaves that to the
    link then. A tunnel is such a link, and as its far end is not where the packet ends, the fragments are
    IPv6's own.
    """
    if packet[0] >> 4 == 4:
        (flags,) = struct.unpack_from("!H", packet, h.IPV4_FRAGMENT)
        return not flags & _DONT_FRAGMENT
    return len(packet) <= IPV6_MTU_MIN


def too_big(packet: memoryview, mtu: int) -> bytearray | None:
    """The ICMP message that tells the sender of `packet` to send at most `mtu` bytes; None for who is not.

    It comes from the address the packet was for. That passes the reverse-path filter of a host that routes
    that address to us, and a tunnel has no address of its own.
    """
    if packet[0] >> 4 == 4:
        return _too_big_v4(packet, mtu)
    return _too_big_v6(packet, max(mtu, IPV6_MTU_MIN))


def _too_big_v4(packet: memoryview, mtu: int) -> bytearray | None:
    *_, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(packet)
    length = (packet[0] & 0xF) * 4
    if fragment & _OFFSET or not _is_unicast_v4(source) or not _is_unicast_v4(destination):
        return None
    if protocol == _PROTOCOL_ICMP and (len(packet) <= length or packet[length] in _ICMP_ERRORS):
        return None
    body = bytearray(_ICMP.pack(3, 4, 0, 0, mtu)) + packet[:_QUOTED_V4]
    struct.pack_into("!H", body, 2, checksum(body))
    total = h.IPV4_LEN + len(body)
    head = bytearray(_IPV4.pack(0x45, 0, total, 0, 0, _HOPS, _PROTOCOL_ICMP, 0, destination, source))
    struct.pack_into("!H", head, h.IPV4_CHECKSUM, checksum(head))
    return head + body


def _is_unicast_v4(address: bytes) -> bool:
    return 0 < address[0] < 224 and address[0] != 127


def _too_big_v6(packet: memoryview, mtu: int) -> bytearray | None:
    _, _, following, _, source, destination = _IPV6.unpack_from(packet)
    if source[0] == 0xFF or destination[0] == 0xFF or not any(source):
        return None
    if following == _PROTOCOL_ICMPV6 and (
        len(packet) <= h.IPV6_LEN or packet[h.IPV6_LEN] < _ICMPV6_ERRORS_BELOW
    ):
        return None
    if following == _PROTOCOL_FRAGMENT and struct.unpack_from("!H", packet, h.IPV6_LEN + 2)[0] >> 3:
        return None
    body = bytearray(_ICMPV6.pack(2, 0, 0, mtu)) + packet[:_QUOTED_V6]
    pseudo = _PSEUDO_V6.pack(destination, source, len(body), _PROTOCOL_ICMPV6)
    struct.pack_into("!H", body, 2, checksum(pseudo + body))
    head = _IPV6.pack(6 << 28, len(body), _PROTOCOL_ICMPV6, _HOPS, destination, source)
    return bytearray(head) + body


def fragments(packet: memoryview, mtu: int, identification: int) -> list[memoryview]:
    """`packet` in pieces of at most `mtu` bytes each; none when it has headers that would need care.

    `identification` (32 bits, unpredictable) names the packet for IPv6, whose senders put none in.
    """
    if packet[0] >> 4 == 4:
        return _fragments_v4(packet, mtu)
    return _fragments_v6(packet, mtu, identification)


def _fragments_v4(packet: memoryview, mtu: int) -> list[memoryview]:
    if packet[0] != 0x45:  # options, of which some are copied and some are not; nobody sends them
        return []
    (field,) = struct.unpack_from("!H", packet, h.IPV4_FRAGMENT)
    room = (mtu - h.IPV4_LEN) & ~7
    payload = packet[h.IPV4_LEN :]
    if room <= 0:
        return []
    found = []
    for at in range(0, len(payload), room):
        piece = payload[at : at + room]
        more = _MORE if at + room < len(payload) else field & _MORE
        whole = bytearray(packet[: h.IPV4_LEN]) + piece
        struct.pack_into("!H", whole, h.IPV4_TOTAL_LENGTH, len(whole))
        struct.pack_into("!H", whole, h.IPV4_FRAGMENT, ((field & _OFFSET) + at // 8) & _OFFSET | more)
        struct.pack_into("!H", whole, h.IPV4_CHECKSUM, 0)
        struct.pack_into("!H", whole, h.IPV4_CHECKSUM, checksum(whole[: h.IPV4_LEN]))
        found.append(memoryview(whole))
    return found


def _fragments_v6(packet: memoryview, mtu: int, identification: int) -> list[memoryview]:
    following, start, offset, more_follow = packet[6], h.IPV6_LEN, 0, 0
    if following == _PROTOCOL_FRAGMENT:  # a fragment already: its pieces belong to the same packet
        start += _FRAGMENT.size
        if len(packet) < start:
            return []
        following, _, field, identification = _FRAGMENT.unpack_from(packet, h.IPV6_LEN)
        offset, more_follow = field & ~7, field & 1
    elif following in (0, 43, 60, 135):  # headers for the way; they would stand before the Fragment header
        return []
    room = (mtu - h.IPV6_LEN - _FRAGMENT.size) & ~7
    payload = packet[start:]
    if room <= 0:
        return []
    found = []
    for at in range(0, len(payload), room):
        piece = payload[at : at + room]
        more = 1 if at + room < len(payload) else more_follow
        whole = bytearray(packet[: h.IPV6_LEN])
        whole[6] = _PROTOCOL_FRAGMENT
        struct.pack_into("!H", whole, h.IPV6_PAYLOAD_LENGTH, _FRAGMENT.size + len(piece))
        whole += _FRAGMENT.pack(following, 0, (offset + at) & 0xFFF8 | more, identification)
        found.append(memoryview(whole + piece))
    return found
