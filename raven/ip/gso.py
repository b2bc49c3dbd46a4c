"""Cuts a superpacket into the packets that the kernel would have sent.

Below is arithmetic alone; above is the engine, which reads superpackets from the TUN device. The packets are
written as rows of one scratch matrix, so that each header field is one column operation for all of them
(Linux net/ipv4/tcp_offload.c, tcp_gso_segment; udp_offload.c, __udp_gso_segment).
"""

import struct
from typing import Final

import numpy as np

from raven.errors import PeerError
from raven.ip import header as h
from raven.ip.checksum import checksum, fold, host_order
from raven.ip.rows import checksums, row_sums

SUPERPACKET_MAX: Final = 65535  # bytes; the length fields of IPv4 and IPv6 hold no more
# Rows of one cut. A TCP sender fills a superpacket with segments of 536 bytes or more (122 of them); small
# ones only come from odd TCP_MAXSEG settings, and this still leaves those 32-byte segments.
SEGMENTS_MAX: Final = 2048
# Layouts kept. One per path MTU and set of TCP options is in use; more come from UDP senders with sizes of
# their own. 64 KiB or little more each.
_LAYOUTS_MAX: Final = 16

_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")
_NATIVE16 = struct.Struct("=H")
_KINDS: Final = {
    # gso_type: (IP version or 0 for both, offset of the checksum in the transport header)
    h.GSO_TCPV4: (4, h.TCP_CHECKSUM),
    h.GSO_TCPV6: (6, h.TCP_CHECKSUM),
    h.GSO_UDP_L4: (0, h.UDP_CHECKSUM),
}


class _Layout:
    """Scratch rows and prebuilt views for segments of one shape: the same header length and segment size.

    `stride` is a multiple of 8, and what lies behind a segment in its row is always zero, so that sums can
    run over whole rows whatever the segment's length.
    """

    __slots__ = ("columns16", "columns32", "flat", "index", "rows", "steps", "stride", "views", "words")

    def __init__(self, header_length: int, gso_size: int) -> None:
        size = header_length + gso_size
        count = min(SEGMENTS_MAX, -(-SUPERPACKET_MAX // gso_size))
        self.stride = stride = -(-size // 8) * 8
        scratch = bytearray(count * stride)
        self.flat = memoryview(scratch)
        self.rows = np.frombuffer(scratch, np.uint8).reshape(count, stride)
        self.words = self.rows.view(np.uint16)
        self.columns16 = self.rows.view(">u2")
        self.columns32 = self.rows.view(">u4")
        self.index = np.arange(count, dtype=np.uint32)
        self.steps = self.index * np.uint32(gso_size)
        self.views = [self.flat[at : at + size] for at in range(0, count * stride, stride)]


class Cutter:
    """Cuts superpackets; keeps scratch space, so what `cut` returns is valid until the next `cut`."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[int, int], _Layout] = {}

    def cut(self, virtio: h.Virtio, superpacket: memoryview) -> list[memoryview]:
        """The segments of `superpacket`, all of one size but the last.

        PeerError, with a reason to count, when `virtio` does not describe `superpacket`.
        """
        start = virtio.csum_start
        tcp = virtio.gso_type & ~h.GSO_ECN != h.GSO_UDP_L4
        header_length = _header_length(virtio, superpacket)
        gso_size = virtio.gso_size
        payload_length = len(superpacket) - header_length
        whole, rest = divmod(payload_length, gso_size)
        count = whole + (rest > 0)
        layout = self._layout(header_length, gso_size)
        rows = layout.rows

        template = bytearray(superpacket[:header_length])
        checksum_at = start + virtio.csum_offset
        (partial,) = _NATIVE16.unpack_from(template, checksum_at)
        _NATIVE16.pack_into(template, checksum_at, 0)
        flags_at = start + h.TCP_FLAGS
        flags = template[flags_at] if tcp else 0
        if tcp:
            template[flags_at] = flags & ~(h.FIN | h.PSH | h.CWR)
        _fix_lengths(template, start, header_length, gso_size, tcp)

        rows[:count, :header_length] = np.frombuffer(template, np.uint8)
        payload = np.frombuffer(superpacket, np.uint8, -1, header_length)
        end = header_length + gso_size
        rows[:whole, header_length:end] = payload[: whole * gso_size].reshape(whole, gso_size)
        flat, last = layout.flat, (count - 1) * layout.stride
        last_size = end
        if rest:
            last_size = header_length + rest
            rows[whole, header_length:last_size] = payload[whole * gso_size :]
            rows[whole, last_size:] = 0
            _fix_last_lengths(flat[last : last + header_length], start, last_size, tcp)
        if tcp:
            (sequence,) = _U32.unpack_from(template, start + h.TCP_SEQUENCE)
            sequences = layout.steps[:count] + np.uint32(sequence)
            layout.columns32[:count, (start + h.TCP_SEQUENCE) // 4] = sequences
            flat[flags_at] |= flags & h.CWR
            flat[last + flags_at] |= flags & (h.FIN | h.PSH)
        if template[0] >> 4 == 4:
            _number(layout, template, start, count)
            if rest:
                _sum_header(flat[last : last + start])

        # `partial` is the pseudo-header's sum with the length of the whole superpacket in it.
        wanted = host_order(end - start)
        others = fold(partial + 0xFFFF - host_order(len(superpacket) - start) + wanted)
        sums = row_sums(layout.words[:count, start // 2 :])
        sums += np.uint32(others)
        if rest:
            sums[-1] += np.uint32(fold(0xFFFF - wanted + host_order(last_size - start)))
        sums = checksums(sums)
        if not tcp:
            sums[sums == 0] = 0xFFFF  # zero would say "no checksum" (RFC 768)
        layout.words[:count, checksum_at // 2] = sums

        views = layout.views[:count]
        if rest:
            views[-1] = flat[last : last + last_size]
        return views

    def _layout(self, header_length: int, gso_size: int) -> _Layout:
        key = header_length, gso_size
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) == _LAYOUTS_MAX:
                self._layouts.clear()
            layout = self._layouts[key] = _Layout(header_length, gso_size)
        return layout


def _header_length(virtio: h.Virtio, superpacket: memoryview) -> int:
    """The length of all headers, everything that `cut` relies on checked."""
    kind = _KINDS.get(virtio.gso_type & ~h.GSO_ECN)
    if kind is None:
        raise PeerError("tun-gso-type", f"gso_type {virtio.gso_type} was never offered")
    version, checksum_offset = kind
    start = virtio.csum_start
    length = len(superpacket)
    if not virtio.flags & h.NEEDS_CSUM or virtio.csum_offset != checksum_offset:
        raise PeerError("tun-gso-checksum", "a superpacket comes with an open checksum in its usual place")
    if start % 4 or not h.IPV4_LEN <= start <= length - h.UDP_LEN:
        raise PeerError("tun-gso-start", f"transport header at {start} of {length} bytes")
    actual = superpacket[0] >> 4
    if actual != (version or actual) or not (
        (actual == 4 and start == (superpacket[0] & 15) * 4) or (actual == 6 and start >= h.IPV6_LEN)
    ):
        raise PeerError("tun-gso-version", f"IP version {actual}, transport header at {start}")
    header_length = start + h.UDP_LEN
    if checksum_offset == h.TCP_CHECKSUM:
        if start + h.TCP_LEN > length:
            raise PeerError("tun-gso-short", f"{length} bytes do not hold a TCP header at {start}")
        header_length = start + (superpacket[start + h.TCP_DATA_OFFSET] >> 4) * 4
        if header_length < start + h.TCP_LEN:
            raise PeerError("tun-gso-short", "a TCP header of less than 20 bytes")
    payload = length - header_length
    if payload <= 0 or virtio.gso_size == 0 or length > SUPERPACKET_MAX:
        raise PeerError("tun-gso-short", f"{payload} bytes to cut into segments of {virtio.gso_size}")
    if payload > virtio.gso_size * SEGMENTS_MAX:
        raise PeerError("tun-gso-segments", f"{payload} bytes in segments of {virtio.gso_size}")
    return header_length


def _number(layout: _Layout, template: bytearray, start: int, count: int) -> None:
    """Writes consecutive IPv4 ids, and the header checksums that go with them, for segments of full size."""
    (first_id,) = _U16.unpack_from(template, h.IPV4_ID)
    (first,) = _U16.unpack_from(template, h.IPV4_CHECKSUM)
    index = layout.index[:count]
    layout.columns16[:count, h.IPV4_ID // 2] = (index + np.uint32(first_id)) & 0xFFFF
    if first_id + count <= 0x10000 and first >= count:
        # An id of one more is a checksum of one less.
        layout.columns16[:count, h.IPV4_CHECKSUM // 2] = np.uint32(first) - index
    else:
        for at in range(0, count * layout.stride, layout.stride):
            _sum_header(layout.flat[at : at + start])


def _fix_lengths(template: bytearray, start: int, header_length: int, gso_size: int, tcp: bool) -> None:
    """Writes the lengths of a whole segment, and an IPv4 header's checksum."""
    size = header_length + gso_size
    if not tcp:
        _U16.pack_into(template, start + h.UDP_LENGTH, size - start)
    if template[0] >> 4 == 6:
        _U16.pack_into(template, h.IPV6_PAYLOAD_LENGTH, size - h.IPV6_LEN)
    else:
        _U16.pack_into(template, h.IPV4_TOTAL_LENGTH, size)
        _sum_header(memoryview(template)[:start])


def _fix_last_lengths(last: memoryview, start: int, size: int, tcp: bool) -> None:
    """Writes the lengths of the last segment, which is shorter, into its headers."""
    if not tcp:
        _U16.pack_into(last, start + h.UDP_LENGTH, size - start)
    if last[0] >> 4 == 6:
        _U16.pack_into(last, h.IPV6_PAYLOAD_LENGTH, size - h.IPV6_LEN)
    else:
        _U16.pack_into(last, h.IPV4_TOTAL_LENGTH, size)


def _sum_header(header: memoryview) -> None:
    """Writes the checksum of an IPv4 header."""
    _U16.pack_into(header, h.IPV4_CHECKSUM, 0)
    _U16.pack_into(header, h.IPV4_CHECKSUM, checksum(header))
