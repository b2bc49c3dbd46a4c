"""Inner packets for tests: real enough for what WireGuard reads of them."""

import ipaddress
import struct


def packet(source: str, destination: str, size: int = 100, *, fill: int = 0, ecn: int = 0) -> memoryview:
    """An IP packet of `size` bytes in all; `fill` marks it so that tests can tell packets apart."""
    src, dst = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    if len(src) == 4:
        header = struct.pack("!BBHHHBBH4s4s", 0x45, ecn, size, fill & 0xFFFF, 0, 64, 17, 0, src, dst)
        total = sum(struct.unpack("!10H", header))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    else:
        header = struct.pack("!IHBB16s16s", 6 << 28 | ecn << 20 | fill & 0xFFFF, size - 40, 17, 64, src, dst)
    assert size >= len(header)
    body = bytes((fill + i) & 0xFF for i in range(min(size - len(header), 64)))
    return memoryview((header + body).ljust(size, b"\xaa"))
