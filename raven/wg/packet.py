"""The few bytes of an inner IP packet that WireGuard reads: version, length, source, destination, ECN.

Above: `device` and `peer`. Whole headers and checksums of streams are `raven.ip`'s; here a burst is looked
over without building anything per packet.
"""

import struct

IPV4_HEADER_LEN = 20  # bytes, without options
IPV6_HEADER_LEN = 40  # bytes

# What one run of packets has in common on its way out. IPv4: u8 version and IHL, u8 TOS, ..., u32
# destination. IPv6: u16 version, traffic class and four bits of flow label, ..., 128 bits destination.
DESTINATION_V4 = struct.Struct("!H14xI")
DESTINATION_V6 = struct.Struct("!H22xQQ")
# And on its way in. IPv4: u8 version and IHL, u16 total length, u32 source. IPv6: u8 version, u16 payload
# length, 128 bits source.
SOURCE_V4 = struct.Struct("!BxH8xI")
SOURCE_V6 = struct.Struct("!B3xH2xQQ")

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


def outer_tos_of_word(word: int) -> int:
    """The same from the packet's first 16 bits."""
    ecn = (word if word >> 12 == 4 else word >> 4) & ECN_MASK
    return ECN_ECT0 if ecn == ECN_CE else ecn


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
