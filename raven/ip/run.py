"""Packets of one flow, in order, on their way to become one write to the TUN device.

Above is `gro`, which finds the flow of a packet; below `shape`, which says what packets of a kind must share.
"""

import struct
from typing import Final

from raven.ip import header as h
from raven.ip.checksum import fold, ones_complement_sum
from raven.ip.gso import SUPERPACKET_MAX
from raven.ip.shape import Shape, counts_on

# One write for os.writev(): a virtio header, then a packet or superpacket in pieces.
Joined = list[bytes | memoryview]

# Pieces of one write; the kernel takes 1024 (IOV_MAX).
_PIECES_MAX: Final = 500

_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")


class Run:
    """Packets of one flow, in order, that become one write."""

    __slots__ = (
        "first",
        "header",
        "id",
        "length",
        "open",
        "payload",
        "pieces",
        "pushed",
        "sequence",
        "shape",
    )

    def __init__(self, first: memoryview, header: int, shape: Shape) -> None:
        self.first = first
        self.header = header
        self.shape = shape
        self.payload = len(first) - shape.header_length  # bytes of a segment
        self.length = shape.header_length  # bytes of the superpacket so far
        self.pieces: Joined = []  # payloads
        self.open = True
        self.pushed = 0  # PSH when the last packet has it
        self.sequence = _U32.unpack_from(first, shape.start + h.TCP_SEQUENCE)[0] if shape.tcp else 0
        self.id = _U16.unpack_from(first, h.IPV4_ID)[0] if counts_on(first, shape) else None

    def continued_by(self, packet: memoryview, header: int, shape: Shape) -> bool:
        """Whether `packet`, joinable and intact, can be the next one."""
        payload = len(packet) - shape.header_length
        return (
            self.open
            and shape is self.shape
            and not (header ^ self.header) & shape.same_mask
            and payload <= self.payload
            and self.length + payload <= SUPERPACKET_MAX
            and len(self.pieces) < _PIECES_MAX
            and (not shape.tcp or _U32.unpack_from(packet, shape.start + h.TCP_SEQUENCE)[0] == self.sequence)
            and (self.id is None or _U16.unpack_from(packet, h.IPV4_ID)[0] == self.id)
        )

    def add(self, packet: memoryview) -> None:
        """Takes the next packet. A shorter one, or one that is pushed, is the last."""
        shape = self.shape
        payload = packet[shape.header_length :]
        self.advance(payload, 1)
        if len(payload) < self.payload:
            self.open = False
        if shape.tcp and packet[shape.start + h.TCP_FLAGS] & h.PSH:
            self.push()

    def advance(self, payloads: memoryview, count: int) -> None:
        """Takes the payloads of `count` packets."""
        self.pieces.append(payloads)
        self.length += len(payloads)
        self.sequence = self.sequence + len(payloads) & 0xFFFFFFFF
        if self.id is not None:
            self.id = self.id + count & 0xFFFF

    def push(self) -> None:
        """Call when the packet taken last has PSH: what is pushed wants to be delivered."""
        self.pushed = h.PSH
        self.open = False

    def finish(self) -> Joined:
        """What to write: the packet itself if it stayed alone, else a superpacket."""
        shape, length = self.shape, self.length
        if length == len(self.first):
            return [h.PLAIN, self.first]
        start = shape.start
        header = bytearray(self.first[: shape.header_length])
        _U16.pack_into(header, shape.length_at, length - shape.length_less)
        if shape.version == 4:
            _U16.pack_into(header, h.IPV4_CHECKSUM, 0)
            _U16.pack_into(header, h.IPV4_CHECKSUM, ~ones_complement_sum(header[:start]) & 0xFFFF)
        if shape.tcp:
            header[start + h.TCP_FLAGS] |= self.pushed
        else:
            _U16.pack_into(header, start + h.UDP_LENGTH, length - start)
        pseudo = ones_complement_sum(header[shape.address_at : start]) + shape.protocol + length - start
        _U16.pack_into(header, start + shape.checksum_offset, fold(pseudo))
        virtio = h.Virtio(
            flags=h.NEEDS_CSUM,
            gso_type=shape.gso_type,
            header_length=shape.header_length,
            gso_size=self.payload,
            csum_start=start,
            csum_offset=shape.checksum_offset,
        )
        return [virtio.pack() + header, *self.pieces]
