"""The few bytes of an inner IP packet that WireGuard reads: version, length, source, destination, ECN.

Above: `device` and `peer`. Whole headers and checksums of streams are `raven.ip`'s; here a burst is looked
over without building anything per packet.
"""

import struct

IPV4_HEADER_LEN = 20  # bytes, without options
IPV6_HEADER_LEN = 40  # bytes
UDP_HEADER_LEN = 8  # bytes
# Bytes around an inner packet: the outer header, UDP's, and the transport message's 32.
OVERHEAD_V4 = IPV4_HEADER_LEN + UDP_HEADER_LEN + 32
OVERHEAD_V6 = IPV6_HEADER_LEN + UDP_HEADER_LEN + 32
TRANSPORT_START = b"\x04\0\0\0"  # how a transport message starts: its type, and three reserved bytes
FRAGMENT_TYPE = 0x52  # how a fragment of a superframe starts; its fourth byte is zero

# What one run of packets has in common on its way out. IPv4: u8 version and IHL, u8 TOS, ..., u32 middle (u16
# flags and fragment offset, u8 TTL, u8 protocol), ..., u32 destination. IPv6: u16 version, traffic class and
# four bits of flow label, ..., u16 middle (u8 next header, u8 hop limit), ..., 128 bits destination.
DESTINATION_V4 = struct.Struct("!H4xI6xI")
DESTINATION_V6 = struct.Struct("!H4xH16xQQ")
# And on its way in. IPv4: u8 version and IHL, u16 total length, u32 source. IPv6: u8 version, u16 payload
# length, 128 bits source.
SOURCE_V4 = struct.Struct("!BxH8xI")
SOURCE_V6 = struct.Struct("!B3xH2xQQ")

PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_FRAGMENT = 44  # IPv6's extension header
FRAGMENT_V4 = 0x3FFF  # of flags and offset: more fragments follow, or some came before

# A datagram of ours that is routed into a tunnel again grows, is cut in two, and grows: a loop would never
# end, as each outer header starts with a fresh hop limit. So what may be a tunnel's (a transport message, or
# a fragment) passes its hop limit on, this much lower. Four tunnels in each other still leave 40 hops, and a
# loop is over after eight rounds.
NESTING_HOPS = 8
HOPS_MAX = 64  # what Linux gives a datagram by itself

ECN_MASK = 0b11
ECN_CE = 0b11  # congestion experienced
ECN_ECT0 = 0b10


def outer_tos(packet: memoryview | bytes) -> int:
    """The outer TOS for an inner packet: no DSCP, and ECN as RFC 6040 section 4.1's normal mode says.

    Congestion seen by the inner packet is not the tunnel's, so CE leaves as ECT(0), as the kernel has it.
    """
    if not packet:
        return 0
    return outer_tos_of_word(packet[0] << 8 | packet[1])


def outer_fields(packet: bytes) -> tuple[int, int]:
    """TOS and hop limit of the outer header for one packet that is no loop."""
    return outer_tos(packet), nested_hops(packet) if packet else 0


def outer_tos_of_word(word: int) -> int:
    """The same from the packet's first 16 bits."""
    ecn = (word if word >> 12 == 4 else word >> 4) & ECN_MASK
    return ECN_ECT0 if ecn == ECN_CE else ecn


def is_tcp(version: int, middle: int) -> bool:
    """Whether it is TCP, by the second value of the `DESTINATION` struct; extension headers hide it."""
    return (middle & 0xFF if version == 4 else middle >> 8) == PROTOCOL_TCP


def may_be_nested(version: int, middle: int) -> bool:
    """Whether `nested_hops` has to look; `middle` is the second value of the `DESTINATION` struct."""
    if version == 4:
        return middle & 0xFF == PROTOCOL_UDP or middle >> 16 & FRAGMENT_V4 != 0
    return middle >> 8 in (PROTOCOL_UDP, PROTOCOL_FRAGMENT)


def nested_hops(packet: memoryview | bytes) -> int:
    """The outer hop limit for an inner packet with whole headers; 0: the system's own, below 0: a loop."""
    if packet[0] >> 4 == 4:
        protocol, hops, payload = packet[9], packet[8], (packet[0] & 0xF) * 4
        fragment = (packet[6] << 8 | packet[7]) & FRAGMENT_V4 != 0
    else:
        protocol, hops, payload = packet[6], packet[7], IPV6_HEADER_LEN
        fragment = protocol == PROTOCOL_FRAGMENT
    if not fragment:
        if protocol != PROTOCOL_UDP:
            return 0
        start = packet[payload + UDP_HEADER_LEN : payload + UDP_HEADER_LEN + 4]
        if start != TRANSPORT_START and (len(start) < 4 or (start[0], start[3]) != (FRAGMENT_TYPE, 0)):
            return 0
    return min(hops, HOPS_MAX) - NESTING_HOPS or -1


def mark_congestion(packet: memoryview) -> None:
    """Hands an outer CE mark to an inner packet that understands ECN; `packet` is whole and writable."""
    if packet[0] >> 4 == 4:
        tos = packet[1]
        if tos & ECN_MASK in (0, ECN_CE):
            return
        packet[1] = tos | ECN_CE
        # RFC 1624, equation 3, for the header's first word
        checksum = ~struct.unpack_from("!H", packet, 10)[0] & 0xFFFF
        checksum += (~(packet[0] << 8 | tos) & 0xFFFF) + (packet[0] << 8 | packet[1])
        while checksum >> 16:
            checksum = (checksum & 0xFFFF) + (checksum >> 16)
        struct.pack_into("!H", packet, 10, ~checksum & 0xFFFF)
    elif (packet[1] >> 4) & ECN_MASK != 0:
        packet[1] |= ECN_CE << 4
