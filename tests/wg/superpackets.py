"""Superpackets from a to b of `tests.wg.pair`, behind their virtio headers."""

from random import Random

from tests.ip.model import Flow


def superpacket(
    fill: int = 0, *, segments: int = 45, size: int = 1368, version: int = 4, tcp: bool = True
) -> bytes:
    """One of `segments` segments, the last one shorter; `fill` tells it from others."""
    payload = Random(fill).randbytes(segments * size - fill % size)
    flow = Flow(version=version, tcp=tcp)
    virtio, packet = flow.superpacket(payload, size, identification=fill & 0xFFFF)
    return virtio.pack() + packet
