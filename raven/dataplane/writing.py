"""Gives what the device opened to the TUN device: a burst joined into superpackets, each one write.

A kind of superpacket that the kernel does not take goes in segments from then on, and the offloads say so.
Above is the engine; what may be joined `raven.ip` knows.
"""

import functools
from typing import TYPE_CHECKING, Final

from raven.dataplane.offloads import TUN_TCP, TUN_UDP, Offloads
from raven.dataplane.tun import Tun
from raven.ip import header as h
from raven.ip.burst import worth_joining
from raven.wg.device import Device

if TYPE_CHECKING:
    from raven.ip.gro import Joined, Joiner
    from raven.ip.gso import Cutter

# Superpackets of peers that the kernel refused, and took none between, after which it gets no more of that
# kind. What peers send was checked, so a refusal is most likely the kernel's fault; but one decides nothing.
_REFUSALS_MAX: Final = 8


class Writer:
    """The way from one device into its TUN device."""

    def __init__(self, tun: Tun, device: Device, offloads: Offloads) -> None:
        self._tun = tun
        self._device = device
        self._offloads = offloads
        self._refusals = {TUN_TCP: 0, TUN_UDP: 0}  # superpackets of peers, in a row

    # Made at first need, because they bring numpy: 12 MB, and most devices of a site never see a burst.

    @functools.cached_property
    def cutter(self) -> "Cutter":
        """What it cut is valid until it cuts again, as `write` may."""
        from raven.ip.gso import Cutter

        return Cutter()

    @functools.cached_property
    def _joiner(self) -> "Joiner":
        from raven.ip.gro import Joiner

        return Joiner(udp=self._offloads.works(TUN_UDP))

    def write(self) -> None:
        """Joins what was received and opened, and writes it; LinkGone."""
        packets = self._device.packets()
        written = 0
        for before, superpacket in self._device.superpackets():
            self._write_joined(packets[written:before])
            written = before
            self._write_superpacket(superpacket)
        self._write_joined(packets[written:] if written else packets)

    def _write_joined(self, packets: list[memoryview]) -> None:
        writes: list[Joined]
        if self._offloads.works(TUN_TCP) and worth_joining(packets):
            writes = self._joiner.join(packets)
        else:
            writes = [[h.PLAIN, packet] for packet in packets]
        for write in writes:
            reason = self._tun.write(write)
            virtio = h.Virtio.unpack_from(write[0])
            if reason == "tun-refused" and virtio.gso_type != h.GSO_NONE:
                # What we joined ourselves is well-formed, so it is the kind that the kernel does not take.
                self._stop(_offload_of(virtio))
                self._write_segments(virtio, memoryview(b"".join(write))[h.VIRTIO_LEN :])
            elif reason:
                self._device.dropped(reason)

    def _write_superpacket(self, superpacket: memoryview) -> None:
        """Writes one that came whole, in pieces where the kernel does not take its kind."""
        virtio = h.Virtio.unpack_from(superpacket)
        name = _offload_of(virtio)
        if self._offloads.works(name):
            reason = self._tun.write([superpacket])
            if reason != "tun-refused":
                self._refusals[name] = 0
                if reason:
                    self._device.dropped(reason)
                return
            self._refusals[name] += 1
            if self._refusals[name] == _REFUSALS_MAX:
                self._stop(name)
        self._write_segments(virtio, superpacket[h.VIRTIO_LEN :])

    def _stop(self, name: str) -> None:
        """The kernel gets no superpackets of that kind any more."""
        self._offloads.failed(name, "the kernel refused a superpacket (EINVAL)")
        self.__dict__.pop("_joiner", None)

    def _write_segments(self, virtio: h.Virtio, superpacket: memoryview) -> None:
        for segment in self.cutter.cut(virtio, superpacket):
            if reason := self._tun.write([h.PLAIN, segment]):
                self._device.dropped(reason)


def _offload_of(virtio: h.Virtio) -> str:
    return TUN_UDP if virtio.gso_type == h.GSO_UDP_L4 else TUN_TCP
