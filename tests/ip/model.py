"""Packets for the tests of `raven.ip`, and plain models of what it does: slow, short, by the RFCs."""

import struct
from dataclasses import dataclass

from raven.ip import header as h


def plain_checksum(data: bytes) -> int:
    """RFC 1071, section 4.1, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def plain_checksums(data: bytes) -> list[int]:
    """`plain_checksum` of the first 0, 1, 2, ... bytes of `data`, each from the one before."""
    found = []
    total = 0  # of the whole words so far
    for at in range(len(data) + 1):
        rest = data[at - 1] << 8 if at % 2 else 0
        if at and not at % 2:
            total += data[at - 2] << 8 | data[at - 1]
            total = (total & 0xFFFF) + (total >> 16)
        sum_ = total + rest
        found.append(~((sum_ & 0xFFFF) + (sum_ >> 16)) & 0xFFFF)
    return found


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The parts of a header that stay the same from packet to packet."""

    version: int = 4
    tcp: bool = True
    source_port: int = 40000
    options: bytes = b"\x01\x01\x08\x0a" + bytes(8)  # as Linux sends timestamps
    acknowledgement: int = 0x01020304
    window: int = 501
    traffic_class: int = 0
    dont_fragment: bool = True
    hop_limit: int = 64

    @property
    def start(self) -> int:
        return h.IPV4_LEN if self.version == 4 else h.IPV6_LEN

    @property
    def header_length(self) -> int:
        return self.start + (h.TCP_LEN + len(self.options) if self.tcp else h.UDP_LEN)

    @property
    def checksum_offset(self) -> int:
        return h.TCP_CHECKSUM if self.tcp else h.UDP_CHECKSUM

    def pseudo_header(self, length: int) -> bytes:
        protocol = h.PROTOCOL_TCP if self.tcp else h.PROTOCOL_UDP
        if self.version == 4:
            return self._addresses() + struct.pack("!BBH", 0, protocol, length)
        return self._addresses() + struct.pack("!II", length, protocol)

    def packet(
        self, payload: bytes, *, sequence: int = 1, flags: int = h.ACK, identification: int = 1
    ) -> bytes:
        """A whole packet with right checksums."""
        transport = self.transport(payload, sequence, flags)
        value = plain_checksum(self.pseudo_header(len(transport)) + transport)
        if not self.tcp:
            value = value or 0xFFFF
        return self.ip_header(len(transport), identification) + self._put_checksum(transport, value)

    def superpacket(
        self, payload: bytes, gso_size: int, *, sequence: int = 1, flags: int = h.ACK, identification: int = 1
    ) -> tuple[h.Virtio, bytes]:
        """What a TUN device with offloads gives: the pseudo-header's sum alone in the checksum field."""
        transport = self.transport(payload, sequence, flags)
        pseudo = ~plain_checksum(self.pseudo_header(len(transport))) & 0xFFFF
        gso_type = (h.GSO_TCPV4 if self.version == 4 else h.GSO_TCPV6) if self.tcp else h.GSO_UDP_L4
        virtio = h.Virtio(
            h.NEEDS_CSUM, gso_type, self.header_length, gso_size, self.start, self.checksum_offset
        )
        return virtio, self.ip_header(len(transport), identification) + self._put_checksum(transport, pseudo)

    def cut(
        self, payload: bytes, gso_size: int, *, sequence: int = 1, flags: int = h.ACK, identification: int = 1
    ) -> list[bytes]:
        """The packets that a kernel without offloads would have sent instead of `superpacket`."""
        packets = []
        for index, at in enumerate(range(0, len(payload), gso_size)):
            mine = flags
            if at > 0:
                mine &= ~h.CWR
            if at + gso_size < len(payload):
                mine &= ~(h.FIN | h.PSH)
            packets.append(
                self.packet(
                    payload[at : at + gso_size],
                    sequence=(sequence + at) & 0xFFFFFFFF,
                    flags=mine,
                    identification=(identification + index) & 0xFFFF,
                )
            )
        return packets

    def transport(self, payload: bytes, sequence: int, flags: int) -> bytes:
        if not self.tcp:
            return struct.pack("!HHHH", self.source_port, 443, h.UDP_LEN + len(payload), 0) + payload
        offset = (h.TCP_LEN + len(self.options)) // 4 << 4
        return (
            struct.pack("!HHII", self.source_port, 443, sequence, self.acknowledgement)
            + struct.pack("!BBHHH", offset, flags, self.window, 0, 0)
            + self.options
            + payload
        )

    def ip_header(self, behind: int, identification: int) -> bytes:
        protocol = h.PROTOCOL_TCP if self.tcp else h.PROTOCOL_UDP
        if self.version == 6:
            return struct.pack(
                "!IHBB", 6 << 28 | self.traffic_class << 20, behind, protocol, self.hop_limit
            ) + (self._addresses())
        fragment = 0x4000 if self.dont_fragment else 0
        without = struct.pack(
            "!BBHHHBBH",
            0x45,
            self.traffic_class,
            h.IPV4_LEN + behind,
            identification,
            fragment,
            self.hop_limit,
            protocol,
            0,
        )
        value = plain_checksum(without + self._addresses())
        return without[:10] + struct.pack("!H", value) + self._addresses()

    def _addresses(self) -> bytes:
        if self.version == 4:
            return bytes([10, 0, 0, 1, 10, 0, 0, 2])
        return bytes.fromhex("fd00" + "00" * 13 + "01" + "fd00" + "00" * 13 + "02")

    def _put_checksum(self, transport: bytes, value: int) -> bytes:
        at = self.checksum_offset
        return transport[:at] + struct.pack("!H", value) + transport[at + 2 :]
