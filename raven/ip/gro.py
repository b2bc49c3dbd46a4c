"""Joins a burst of received packets into superpackets, so that the TUN device is written once for many.

The mirror of `gso`: what is joined here, `gso.Cutter` cuts into the same packets again. The kernel does not
look at the checksum inside a superpacket, so each packet's own is verified before it is joined; one that
fails goes on alone, for the kernel to drop and count. The rules are those of Linux (tcp_gro_receive in
net/ipv4/tcp_offload.c; udp_offload.c), and we also ask for an equal window.

Packets are taken one by one into the open run of their flow. A stretch of equal packets, the usual burst, is
taken at once: as rows of a matrix, each rule one operation on its columns.
"""

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from raven.ip import header as h
from raven.ip.burst import worth_joining
from raven.ip.checksum import host_order
from raven.ip.gso import SUPERPACKET_MAX
from raven.ip.rows import Bytes, row_sums
from raven.ip.run import Joined, Run
from raven.ip.shape import Shape, Shapes, counts_on, intact, lengths_fit

__all__ = ["Joined", "Joiner"]

# Equal packets from here on are taken as a matrix (measured: 22 µs and 0.3 each, against 4 each alone).
_MATRIX_FROM: Final = 7

Flags = npt.NDArray[np.bool_]

_ZEROS: Final = bytes(8)


class Joiner:
    """Joins bursts; remembers only the shapes it has met."""

    def __init__(self, *, udp: bool = False) -> None:
        """`udp`: UDP is joined too, for a kernel that takes GSO_UDP_L4 from a TUN device (6.2)."""
        self._shapes = Shapes(udp=udp)

    def join(self, packets: Sequence[memoryview]) -> list[Joined]:
        """The packets of one burst, neighbours of a flow joined where nothing is lost, each flow in order.

        The packets stay borrowed while the result is in use. None of them is trusted to be well-formed.
        """
        if not worth_joining(packets):
            return [[h.PLAIN, packet] for packet in packets]
        sizes = list(map(len, packets))
        burst = _Burst(self._shapes)
        at = 0
        while at < len(packets):
            end = _stretch_end(sizes, at)
            stretch = packets[at:end]
            shape, _ = self._shapes.of_untrusted(stretch[0])
            if shape is None or len(stretch) < _MATRIX_FROM or not burst.add_rows(stretch, shape):
                for packet in stretch:
                    burst.add(packet)
            at = end
        return [write.finish() if isinstance(write, Run) else write for write in burst.writes]


class _Burst:
    """What becomes of one burst: writes, in the order of their first packets."""

    def __init__(self, shapes: Shapes) -> None:
        self.writes: list[Run | Joined] = []
        self._shapes = shapes
        self._runs: dict[bytes, Run] = {}  # the last of each flow

    def add(self, packet: memoryview) -> None:
        """Takes one packet: into the flow's run, as the first of a new one, or alone."""
        shape, flow = self._shapes.of_untrusted(packet)
        header = int.from_bytes(packet[: shape.header_length], "big") if shape else 0
        if shape is None or header & shape.fixed_mask != shape.fixed or not intact(packet, shape):
            self._runs.pop(flow, None)  # whatever it is, the flow's next packet must not overtake it
            self.writes.append([h.PLAIN, packet])
            return
        run = self._runs.get(flow)
        if run is None or not run.continued_by(packet, header, shape):
            run = self._begin(packet, header, shape, flow)
        run.add(packet)

    def add_rows(self, packets: Sequence[memoryview], shape: Shape) -> bool:
        """Takes packets of one size; False, and none taken, if few of them continue the one before."""
        rows, follows = _compare(packets, shape)
        if np.count_nonzero(follows) < len(packets) // 2:
            return False
        bounds = [*np.flatnonzero(~follows).tolist(), len(packets)]
        for first, end in itertools.pairwise(bounds):
            block = packets[first:end]
            if len(block) > 1 and counts_on(block[0], shape) == counts_on(packets[0], shape):
                self._add_block(block, rows[first:end], shape)
            else:
                for packet in block:
                    self.add(packet)
        return True

    def _add_block(self, packets: Sequence[memoryview], rows: Bytes, shape: Shape) -> None:
        """Takes packets of which each continues the one before, as few superpackets as may be."""
        first, size = packets[0], len(packets[0])
        header = int.from_bytes(first[: shape.header_length], "big")
        if header & shape.fixed_mask != shape.fixed or not lengths_fit(first, shape):
            for packet in packets:
                self.add(packet)
            return
        flow = bytes(first[shape.address_at : shape.start + 4])
        most = (SUPERPACKET_MAX - shape.header_length) // (size - shape.header_length)
        for at in range(0, len(packets), most):
            run = self._begin(packets[at], header, shape, flow)
            payloads = np.ascontiguousarray(rows[at : at + most, shape.header_length : size])
            run.advance(payloads.reshape(-1).data, len(payloads))
        if shape.tcp and packets[-1][shape.start + h.TCP_FLAGS] & h.PSH:
            run.push()

    def _begin(self, packet: memoryview, header: int, shape: Shape, flow: bytes) -> Run:
        run = self._runs[flow] = Run(packet, header, shape)
        self.writes.append(run)
        return run


def _stretch_end(sizes: list[int], at: int) -> int:
    """The index behind the last packet of the same size in a row."""
    size, end = sizes[at], len(sizes)
    if sizes[at:].count(size) < end - at:
        end = next(index for index in range(at, end + 1) if index == end or sizes[index] != size)
    return end


def _compare(packets: Sequence[memoryview], shape: Shape) -> tuple[Bytes, Flags]:
    """Packets of one size as rows, and whether each continues the one before, the checksums of both right.

    Each rule leaves zero in `broken` or `apart` for a row that keeps it.
    """
    first, size, start = packets[0], len(packets[0]), shape.start
    padding = _ZEROS[: -size % 8]
    rows = np.frombuffer(padding.join([*packets, b""]), np.uint8).reshape(len(packets), size + len(padding))
    words = rows.view(np.uint16)

    # The sum over an IPv4 header is zero, so one sum over the row checks both checksums at once; it misses
    # one broken packet in 65,536, as either does alone.
    if shape.version == 4:
        sums = row_sums(words)
        sums += row_sums(words[:, h.IPV4_SOURCE // 2 : h.IPV4_LEN // 2])
    else:
        sums = row_sums(words[:, h.IPV6_SOURCE // 2 :])
    sums += np.uint32(host_order(shape.protocol) + host_order(size - start))
    broken = sums % np.uint32(0xFFFF)
    if not shape.tcp:
        broken |= words[:, (start + h.UDP_CHECKSUM) // 2] == 0

    heads = rows.view(np.uint64)[:, : len(shape.equal_words)]
    apart = np.bitwise_or.reduce((heads[1:] ^ heads[:-1]) & shape.equal_words, axis=1)
    apart |= broken[1:] | broken[:-1]
    if counts_on(first, shape):
        ids = rows.view(">u2")[:, h.IPV4_ID // 2].astype(np.uint16)
        apart |= ids[1:] ^ (ids[:-1] + np.uint16(1))
    if shape.tcp:
        sequences = rows.view(">u4")[:, (start + h.TCP_SEQUENCE) // 4].astype(np.uint32)
        apart |= sequences[1:] - sequences[:-1] - np.uint32(size - shape.header_length)
        apart |= rows[:-1, start + h.TCP_FLAGS] & h.PSH
    follows = np.zeros(len(packets), np.bool_)
    np.equal(apart, 0, out=follows[1:])
    return rows, follows
