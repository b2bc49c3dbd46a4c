"""Where the fields of IPv4, IPv6, TCP and UDP headers lie, and the virtio header in front of a TUN packet.

Names only: `gso` and `gro` do the arithmetic on them. Offsets are in bytes, from the start of the header that
the name begins with (RFC 791, 8200, 9293, 768).
"""

import struct
from typing import NamedTuple, Self

IPV4_LEN = 20  # bytes, without options
IPV4_TOTAL_LENGTH = 2
IPV4_ID = 4
IPV4_FRAGMENT = 6
IPV4_CHECKSUM = 10
IPV4_SOURCE = 12

IPV6_LEN = 40  # bytes, without extension headers
IPV6_PAYLOAD_LENGTH = 4
IPV6_SOURCE = 8

PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

TCP_LEN = 20  # bytes, without options
TCP_SEQUENCE = 4
TCP_DATA_OFFSET = 12
TCP_FLAGS = 13
TCP_CHECKSUM = 16

FIN = 0x01
PSH = 0x08
ACK = 0x10
CWR = 0x80

UDP_LEN = 8
UDP_LENGTH = 4
UDP_CHECKSUM = 6

# struct virtio_net_hdr (virtio specification 1.2, section 5.1.6), in the host's byte order as TUN has it:
#   u8  flags
#   u8  gso_type
#   u16 hdr_len       length of all headers, a hint
#   u16 gso_size      payload bytes of a segment
#   u16 csum_start    where the transport header starts
#   u16 csum_offset   where in it the checksum lies
_VIRTIO = struct.Struct("=BBHHHH")
VIRTIO_LEN = _VIRTIO.size
VIRTIO_FLAGS = 0
VIRTIO_GSO_TYPE = 1

NEEDS_CSUM = 1  # the checksum field holds the pseudo-header's sum and waits for the rest

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80  # a bit beside TCPV4 and TCPV6: the first segment alone carries CWR


class Virtio(NamedTuple):
    """The virtio header of one packet or superpacket."""

    flags: int = 0
    gso_type: int = GSO_NONE
    header_length: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    @classmethod
    def unpack_from(cls, buffer: bytes | bytearray | memoryview) -> Self:
        """The header that the first VIRTIO_LEN bytes of `buffer` hold."""
        return cls._make(_VIRTIO.unpack_from(buffer))

    def pack(self) -> bytes:
        return _VIRTIO.pack(*self)


PLAIN = Virtio().pack()  # says nothing: a whole packet with a finished checksum
