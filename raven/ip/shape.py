"""What packets of one kind must have to be joined, each for itself and two of them together.

Below `run` and `gro`, which join them. None of the packets is trusted to be well-formed.
"""

import struct
from typing import Final

import numpy as np

from raven.ip import header as h
from raven.ip.checksum import ones_complement_sum
from raven.ip.rows import long_sum

_U16 = struct.Struct("!H")
_LONG: Final = 512  # bytes, from where `long_sum` is the faster


class Shape:
    """What packets of one kind - IP version, protocol, header length - must have to be joined.

    `fixed` under `fixed_mask` is what every joinable packet has, `same_mask` is where all packets of one
    superpacket agree; both are whole headers as one integer. `equal_words` is where packets of one size
    agree, as 64-bit words that may reach into the payload and mask it.
    """

    def __init__(self, version: int, protocol: int, header_length: int) -> None:
        self.version = version
        self.protocol = protocol
        self.header_length = header_length
        self.tcp = tcp = protocol == h.PROTOCOL_TCP
        self.start = start = h.IPV4_LEN if version == 4 else h.IPV6_LEN
        self.address_at = h.IPV4_SOURCE if version == 4 else h.IPV6_SOURCE
        self.length_at = h.IPV4_TOTAL_LENGTH if version == 4 else h.IPV6_PAYLOAD_LENGTH
        self.length_less = 0 if version == 4 else h.IPV6_LEN  # what the length field leaves out
        self.checksum_offset = h.TCP_CHECKSUM if tcp else h.UDP_CHECKSUM
        self.gso_type = (h.GSO_TCPV4 if version == 4 else h.GSO_TCPV6) if tcp else h.GSO_UDP_L4

        fixed, fixed_mask, same = bytearray(header_length), bytearray(header_length), bytearray(header_length)
        if version == 4:
            fixed[0], fixed_mask[0] = 0x45, 0xFF  # no options
            fixed_mask[6:8] = b"\xbf\xff"  # not a fragment; don't-fragment may be set
            fixed[9], fixed_mask[9] = protocol, 0xFF
            same[0:2] = b"\xff\xff"  # version, traffic class with ECN
            same[6:10] = b"\xff" * 4  # don't-fragment, time to live, protocol
        else:
            fixed[0], fixed_mask[0] = 0x60, 0xF0
            fixed[6], fixed_mask[6] = protocol, 0xFF  # no extension headers
            same[0:4] = b"\xff" * 4  # version, traffic class with ECN, flow label
            same[6:8] = b"\xff\xff"  # next header, hop limit
        same[self.address_at : start + 4] = b"\xff" * (start + 4 - self.address_at)  # addresses, ports
        if tcp:
            fixed[start + 12], fixed_mask[start + 12] = (header_length - start) // 4 << 4, 0xFF
            fixed[start + 13], fixed_mask[start + 13] = h.ACK, 0xFF & ~h.PSH
            same[start + 8 : start + 16] = b"\xff" * 8  # acknowledgement, data offset, flags, window
            same[start + 13] &= ~h.PSH & 0xFF  # the last packet may bring it
            same[start + 18 :] = b"\xff" * (header_length - start - 18)  # urgent pointer, options
        self.fixed = int.from_bytes(fixed, "big")
        self.fixed_mask = int.from_bytes(fixed_mask, "big")
        self.same_mask = int.from_bytes(same, "big")

        same[self.length_at : self.length_at + 2] = b"\xff\xff"
        if not tcp:
            same[start + h.UDP_LENGTH : start + h.UDP_LENGTH + 2] = b"\xff\xff"
        self.equal_words = np.frombuffer(bytes(same) + bytes(-header_length % 8), np.uint64)


class Shapes:
    """The shapes met so far."""

    def __init__(self, *, udp: bool) -> None:
        self._udp = udp
        # Bounded by its key: 2 IP versions, 11 lengths of a TCP header and one of UDP's.
        self._shapes: dict[tuple[int, int, int], Shape] = {}

    def of_untrusted(self, packet: memoryview) -> tuple[Shape | None, bytes]:
        """The shape of `packet`, None when its kind is not joined, and what tells its flow from others."""
        size = len(packet)
        version = packet[0] >> 4 if size else 0
        if version == 4 and size > h.IPV4_LEN + h.UDP_LEN:
            start, protocol, flow = h.IPV4_LEN, packet[9], bytes(packet[h.IPV4_SOURCE : h.IPV4_LEN + 4])
        elif version == 6 and size > h.IPV6_LEN + h.UDP_LEN:
            start, protocol, flow = h.IPV6_LEN, packet[6], bytes(packet[h.IPV6_SOURCE : h.IPV6_LEN + 4])
        else:
            return None, b""
        if protocol == h.PROTOCOL_TCP and size > start + h.TCP_LEN:
            header_length = start + max(packet[start + h.TCP_DATA_OFFSET] >> 4, h.TCP_LEN // 4) * 4
        elif protocol == h.PROTOCOL_UDP and self._udp:
            header_length = start + h.UDP_LEN
        else:
            return None, flow
        if size <= header_length:
            return None, flow
        key = version, protocol, header_length
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = Shape(*key)
        return shape, flow


def counts_on(packet: memoryview, shape: Shape) -> bool:
    """Whether the next packet's id must be one more; where nobody may fragment it is nothing (RFC 6864)."""
    return shape.version == 4 and not packet[h.IPV4_FRAGMENT] & 0x40


def lengths_fit(packet: memoryview, shape: Shape) -> bool:
    """Whether the lengths inside are those of `packet`."""
    size = len(packet)
    if _U16.unpack_from(packet, shape.length_at)[0] != size - shape.length_less:
        return False
    return shape.tcp or _U16.unpack_from(packet, shape.start + h.UDP_LENGTH)[0] == size - shape.start


def intact(packet: memoryview, shape: Shape) -> bool:
    """Whether lengths and checksums of `packet` hold."""
    if not lengths_fit(packet, shape):
        return False
    if shape.version == 4 and ones_complement_sum(packet[: h.IPV4_LEN]) != 0xFFFF:
        return False
    if not shape.tcp and _U16.unpack_from(packet, shape.start + h.UDP_CHECKSUM)[0] == 0:
        return False
    sum_of = long_sum if len(packet) >= _LONG else ones_complement_sum
    total = sum_of(packet[shape.address_at :]) + shape.protocol + len(packet) - shape.start
    return total % 0xFFFF == 0
