"""The trial of TUN offloads, on this kernel, and on one that loses, spoils or refuses what it carries."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from raven.dataplane.offloads import TUN_CHECKSUM, TUN_NAMES, TUN_TCP, TUN_TRIAL, TUN_UDP, Offloads
from raven.dataplane.trial import leave_result, tried_tun, try_tun
from raven.dataplane.trial_traffic import try_traffic
from raven.dataplane.tun import Tun
from raven.errors import RavenError
from raven.ip import header as h
from tests.lab.machine import Machine

Change = Callable[[h.Virtio, bytearray], h.Virtio | None]  # None: it is lost

_UDP, _TCP = (h.GSO_UDP_L4,), (h.GSO_TCPV4, h.GSO_TCPV6)


def flipped(virtio: h.Virtio, packet: bytearray) -> h.Virtio:
    """A bit of the content."""
    packet[-1] ^= 1
    return virtio


def swapped(virtio: h.Virtio, packet: bytearray) -> h.Virtio:
    """Two segments, which leaves every sum of words as it was."""
    packet[-1000:] = packet[-500:] + packet[-1000:-500]
    return virtio


def short(virtio: h.Virtio, packet: bytearray) -> h.Virtio:
    """The last segment, which the IP header still counts."""
    del packet[-250:]
    return virtio


def lost(virtio: h.Virtio, packet: bytearray) -> None:
    return None


def other_size(virtio: h.Virtio, packet: bytearray) -> h.Virtio:
    """Segments that are no segments."""
    return virtio._replace(gso_size=len(packet))


def wrong_sum(virtio: h.Virtio, packet: bytearray) -> h.Virtio:
    """The open checksum does not start with the pseudo-header."""
    at = virtio.csum_start + virtio.csum_offset
    packet[at] ^= 0x55
    return virtio


class Faulty(Tun):
    """A real TUN device whose kernel changes superpackets of some kinds, read or written."""

    reads: Change | None = None
    writes: Change | None = None
    kinds: Sequence[int] = ()
    seen = 0

    def read_into(self, buffer: memoryview) -> int:
        size = super().read_into(buffer)
        if self.reads is None or not size:
            return size
        packet = bytearray(buffer[h.VIRTIO_LEN : size])
        virtio = self._changed(self.reads, h.Virtio.unpack_from(buffer), packet)
        if virtio is None:
            return 0
        changed = virtio.pack() + packet
        buffer[: len(changed)] = changed
        return len(changed)

    def write(self, pieces: Sequence[bytes | memoryview]) -> str:
        if self.writes is None:
            return super().write(pieces)
        whole = b"".join(pieces)
        packet = bytearray(whole[h.VIRTIO_LEN :])
        virtio = self._changed(self.writes, h.Virtio.unpack_from(whole), packet)
        return "" if virtio is None else super().write([virtio.pack() + packet])

    def _changed(self, change: Change, virtio: h.Virtio, packet: bytearray) -> h.Virtio | None:
        open_ = virtio.flags & h.NEEDS_CSUM and packet[9 if packet[0] >> 4 == 4 else 6] in (6, 17)
        if virtio.gso_type & ~h.GSO_ECN not in self.kinds or not open_:
            return virtio
        type(self).seen += 1
        return change(virtio, packet)


def tried(
    machine: Machine, kinds: Sequence[int], *, reads: Change | None, writes: Change | None
) -> dict[str, str]:
    class This(Faulty):
        pass

    This.kinds, This.seen = kinds, 0
    This.reads = staticmethod(reads) if reads else None
    This.writes = staticmethod(writes) if writes else None

    def work() -> dict[str, str]:
        tun = This(machine.interface, mtu=1420)
        try:
            if TUN_UDP in tun.refused_offloads() and kinds == _UDP:
                pytest.skip("this kernel has no UDP superpackets for TUN devices")
            return try_traffic(tun)
        finally:
            tun.close()

    found = machine.inside(work)
    assert This.seen, "the fault was never met"
    return found


READ_FAULTS = [
    *(
        (kinds, name, fault)
        for kinds, name in ((_TCP, TUN_TCP), (_UDP, TUN_UDP))
        for fault in (flipped, swapped, short, lost, other_size, wrong_sum)
    ),
    # A packet alone: of its content the kernel has made no sum yet.
    *(((h.GSO_NONE,), TUN_CHECKSUM, fault) for fault in (lost, wrong_sum)),
]
WRITE_FAULTS = [
    *(
        (kinds, name, fault)
        for kinds, name in ((_TCP, TUN_TCP), (_UDP, TUN_UDP))
        for fault in (flipped, swapped, lost)
    ),
    (_UDP, TUN_UDP, other_size),  # a stream of TCP is the same in any segments
]


@pytest.mark.netns
@pytest.mark.parametrize(("kinds", "name", "fault"), READ_FAULTS)
def test_what_is_read_spoilt_turns_that_offload_off(
    machine: Machine, kinds: Sequence[int], name: str, fault: Change
) -> None:
    found = tried(machine, kinds, reads=fault, writes=None)
    assert list(found) == [name]
    states = Offloads(found).states()
    assert {key for key, why in states.items() if why} == {name}


@pytest.mark.netns
@pytest.mark.parametrize(("kinds", "name", "fault"), WRITE_FAULTS)
def test_what_is_written_spoilt_turns_that_offload_off(
    machine: Machine, kinds: Sequence[int], name: str, fault: Change
) -> None:
    assert list(tried(machine, kinds, reads=None, writes=fault)) == [name]


@pytest.mark.netns
def test_this_kernel_passes_and_nothing_is_left_of_the_trial() -> None:
    before = Path("/proc/net/dev").read_text()
    began = time.monotonic()
    trial = try_tun()
    took = time.monotonic() - began
    assert trial.untried == ""
    assert trial.failures == {}
    assert took < 1.0  # 0.06 s alone on this kind of machine
    assert {line.split()[0] for line in before.splitlines()} == {
        line.split()[0] for line in Path("/proc/net/dev").read_text().splitlines()
    }


def refused() -> dict[str, str]:
    raise RavenError("no network namespace: Operation not permitted")


def hung() -> dict[str, str]:
    time.sleep(60)
    return {}


def crashed() -> dict[str, str]:
    raise ValueError


@pytest.mark.parametrize(
    ("attempt", "words"), [(refused, "no network namespace"), (hung, "no result"), (crashed, "broke off")]
)
def test_a_trial_that_cannot_be_is_said_and_nothing_goes_off(
    attempt: Callable[[], dict[str, str]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raven.dataplane.trial._PATIENCE", 0.2)
    trial = try_tun(attempt)
    assert trial.failures == {}
    assert words in trial.untried
    offloads = Offloads(trial.failures, untried={TUN_TRIAL: trial.untried})
    assert all(offloads.works(name) for name in TUN_NAMES)
    assert offloads.states()[TUN_TRIAL] == trial.untried


# A result that is left for others ---------------------------------------------------------------------

FOUND = {TUN_UDP: "a superpacket for the kernel was lost, with IPv6"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only what root wrote counts")


def spoilt() -> dict[str, str]:
    return FOUND


def never() -> dict[str, str]:
    raise AssertionError


@pytest.fixture
def left(tmp_path: Path) -> Path:
    path = tmp_path / "trial.json"
    assert leave_result(path, spoilt) == ""
    return path


@needs_root
def test_who_may_not_try_takes_what_was_left(left: Path) -> None:
    assert tried_tun(left, refused) == (FOUND, "")
    assert leave_result(left, never) == "", "once a boot is enough"
    assert [path.name for path in left.parent.iterdir()] == [left.name]


@needs_root
def test_who_may_try_does(left: Path) -> None:
    assert tried_tun(left, lambda: {}) == ({}, "")


def test_where_nobody_can_try_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    assert "no network namespace" in leave_result(path, refused)
    assert list(tmp_path.iterdir()) == []
    assert "no network namespace" in tried_tun(path, refused).untried
    assert "No such file" in leave_result(tmp_path / "missing" / "trial.json", spoilt)


@needs_root
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: os.chown(path, 65534, 0),
        lambda path: path.chmod(0o664),
        lambda path: path.chmod(0o646),
        lambda path: path.write_text(json.dumps({"boot": "another", "failures": FOUND})),
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text(path.read_text().replace('{"tun_udp"', '[{"tun_udp"') + "]"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.symlink_to(path.rename(path.with_name("x"))),
    ],
    ids=["owner", "group", "others", "boot", "cut", "list", "empty", "shape", "bytes", "link"],
)
def test_what_was_left_is_ignored_when_it_may_not_be_ours(left: Path, harm: Callable[[Path], object]) -> None:
    harm(left)
    trial = tried_tun(left, refused)
    assert trial.failures == {}
    assert "no network namespace" in trial.untried


@needs_root
def test_what_is_no_offload_of_a_tun_device_is_left_out(left: Path) -> None:
    boot = json.loads(left.read_text())["boot"]
    left.write_text(json.dumps({"boot": boot, "failures": {"udp_send": "x", TUN_TCP: "y" * 1000}}))
    assert tried_tun(left, refused) == ({TUN_TCP: "y" * 200}, "")
