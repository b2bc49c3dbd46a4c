"""What is written to a TUN device whose kernel refuses superpackets, all of them or a few."""

from collections.abc import Callable, Sequence

import pytest

from raven.dataplane.offloads import NAMES, TUN_TCP, TUN_UDP, Offloads
from raven.dataplane.tun import Tun
from raven.dataplane.writing import Writer
from raven.ip import header as h
from tests.dataplane.fakes import ClearDevice
from tests.ip.model import Flow

REFUSED = "the kernel refused a superpacket (EINVAL)"
PAYLOAD = bytes(range(250)) * 16


class RefusingTun(Tun):
    """Takes packets, and of superpackets what `refuses` leaves."""

    def __init__(self, refuses: Callable[[h.Virtio], bool]) -> None:
        self.refuses = refuses
        self.tried = 0  # superpackets
        self.packets: list[bytes] = []

    def write(self, pieces: Sequence[bytes | memoryview]) -> str:
        written = b"".join(pieces)
        virtio = h.Virtio.unpack_from(written)
        if virtio.gso_type != h.GSO_NONE:
            self.tried += 1
            if self.refuses(virtio):
                return "tun-refused"
        self.packets.append(written[h.VIRTIO_LEN :])
        return ""


class Opened(ClearDevice):
    """Has opened superframes."""

    waiting: list[bytes]

    def superpackets(self) -> list[tuple[int, memoryview]]:
        return [(0, memoryview(bytearray(one))) for one in self.waiting]


def write(writer: Writer, device: Opened, *superpackets: bytes) -> None:
    device.waiting = list(superpackets)
    writer.write()


def superpacket(*, tcp: bool) -> bytes:
    virtio, packet = Flow(tcp=tcp).superpacket(PAYLOAD, 1000)
    return virtio.pack() + packet


@pytest.mark.parametrize(("tcp", "name"), [(True, TUN_TCP), (False, TUN_UDP)])
def test_a_superpacket_of_a_peer_that_the_kernel_refuses_is_written_in_segments(tcp: bool, name: str) -> None:
    tun, device, offloads = RefusingTun(lambda _: True), Opened(), Offloads()
    writer = Writer(tun, device, offloads)
    segments = Flow(tcp=tcp).cut(PAYLOAD, 1000)
    for number in range(20):
        assert offloads.states()[name] == (REFUSED if number >= 8 else "")
        write(writer, device, superpacket(tcp=tcp))
        assert tun.packets == segments
        tun.packets.clear()
    assert tun.tried == 8
    assert device.counters == {}
    assert {key for key, why in offloads.states().items() if why} == {name}


def test_refusals_between_others_that_are_taken_stop_nothing() -> None:
    """One peer has found something that passes our checks and not the kernel's."""
    odd = True
    tun, device, offloads = RefusingTun(lambda _: odd), Opened(), Offloads()
    writer = Writer(tun, device, offloads)
    for _ in range(20):
        odd = True
        write(writer, device, superpacket(tcp=True), superpacket(tcp=True))
        odd = False
        write(writer, device, superpacket(tcp=True))
    assert offloads.states() == dict.fromkeys(NAMES, "")
    assert tun.tried == 60
    assert len(tun.packets) == 20 * (4 + 4 + 1)
