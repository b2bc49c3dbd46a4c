"""A flood of hostile datagrams at both ends of an honest pair that connects, transfers and renews its keys.

20,000 of them in the ordinary suite; `make test-hostile` sends a million (HOSTILE says how many). The flood
holds what `tests.wg.hostile` makes, initiations by somebody who knows the public key, sealed to nothing, and
fragments of superframes that never arrived, with right headers and other bytes behind them. Nothing raises,
the pair loses little, its endpoints stay, and memory does not grow.
"""

import gc
import os
from pathlib import Path

import pytest

from raven.wg.configuration import PeerChange, SuperframeCipher
from raven.wg.cookie import MacGenerator
from raven.wg.endpoint import Endpoint
from raven.wg.messages import Initiation
from raven.wg.outbox import Drop
from raven.wg.packet import FRAGMENT_TYPE
from raven.wg.ratelimiter import SOURCES_MAX
from raven.wg.reassembly import PARTIAL_COST_MAX, PARTIALS_MAX
from raven.wg.stepdown import StepDown
from raven.wg.superframe import FRAGMENT, FRAGMENTS_MAX
from tests.wg.hostile import hostile_datagram
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair
from tests.wg.superpackets import superpacket

COUNT = int(os.environ.get("HOSTILE", "20000"))
A4, B4 = "10.0.0.1", "10.0.0.2"
ROUND = 1000  # hostile datagrams in half a second of virtual time
GROWTH_MAX = (
    8 << 20
)  # bytes; buffers of a few bursts and full tables of strangers, not of a million datagrams
FORGED = 0.2  # of the flood: fragments behind real headers
KNOWING = 0.02  # of the flood, and all of every tenth round: enough that the device asks for cookies


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def initiation(net: Net, target: Host) -> bytes:
    """A valid mac1 around random bytes."""
    random = net.random
    body = Initiation(
        random.randrange(1 << 32), random.randbytes(32), random.randbytes(48), random.randbytes(28)
    )
    return MacGenerator(target.public_key).add_macs(body.encode(), net.now)


def fragment(net: Net, headers: list[bytes]) -> bytes:
    """The header of a real fragment that was held back, at times with other numbers, before other bytes."""
    random = net.random
    kind, index, counter, tag = FRAGMENT.unpack(random.choice(headers))
    number, last = kind >> 8 & 0xFF, kind >> 16 & 0xFF
    if random.random() < 0.9:
        last = random.choice([0, 1, *[FRAGMENTS_MAX - 1] * 5, 255])
        number = random.randrange(last + 2) & 0xFF
    if random.random() < 0.1:
        tag ^= 1 << random.randrange(32)
    length = random.choice([0, 1, 1400, *[65491] * 5])
    return FRAGMENT.pack(FRAGMENT_TYPE | number << 8 | last << 16, index, counter, tag) + bytes(length)


class HeldBack:
    """The network keeps every second superframe for whoever floods: headers that a receiver takes for new."""

    def __init__(self, net: Net) -> None:
        self.headers: list[bytes] = []
        net.tap = self._passes

    def _passes(self, _: Endpoint, __: Endpoint, data: bytes) -> bool:
        held = data[0] == FRAGMENT_TYPE and FRAGMENT.unpack_from(data)[2] % 2 == 1
        if held:
            self.headers.append(data[: FRAGMENT.size])
        return not held


def burst(net: Net, target: Host, count: int, knowing: float, headers: list[bytes]) -> list[bytes]:
    def one() -> bytes:
        chance = net.random.random()
        if chance < knowing:
            return initiation(net, target)
        return fragment(net, headers) if chance > 1 - FORGED and headers else hostile_datagram(net, target)

    return [one() for _ in range(count)]


@pytest.mark.timeout(3600)
def test_a_flood_of_hostile_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    # Frames go on although half of them are lost.
    monkeypatch.setattr(StepDown, "allows", lambda *_: True)
    net, a, b = pair(7)
    for host, other in ((a, b), (b, a)):
        host.configure(PeerChange(public_key=other.public_key, superframes=SuperframeCipher.AES256GCM))
    held_back = HeldBack(net)
    random = net.random
    by_a = by_b = heard_by_a = heard_by_b = 0
    frames = heard_frames = 0
    genuine: set[int] = set()
    most = 0  # bytes of incomplete frames
    settled = 0
    for done in range(0, COUNT, ROUND):
        a.send([packet(A4, B4, 400, fill=done + i & 0xFF) for i in range(4)])
        b.send([packet(B4, A4, fill=done & 0xFF)])
        held_back.headers.clear()
        for fill in range(done, done + 24):
            one = superpacket(fill, segments=3)
            genuine.add(hash(one))
            frames += a.send_superpacket(one)
        by_a += 4
        by_b += 1
        net.run(0.25)
        heard_by_a += len(a.packets)
        heard_by_b += len(b.packets)
        heard_frames += len(b.superpackets)
        for host in (a, b):
            host.packets.clear()
            host.events.clear()
        del net.sent[:-300]
        left = ROUND
        knowing = 1.0 if done // ROUND % 10 == 5 else KNOWING
        while left:
            count = min(left, random.randrange(1, 20))
            left -= count
            target, other = random.choice([(a, b), (b, a)])
            # Every fourth burst pretends to come from the honest end.
            stranger = Endpoint(
                f"198.51.{random.randrange(256)}.{random.randrange(256)}", random.randrange(1, 65536)
            )
            target.receive(
                burst(net, target, count, knowing, held_back.headers),
                other.endpoint if random.random() < 0.25 else stranger,
            )
            most = max(most, b.device._shared.reassembly.used)
        assert not a.packets
        assert not b.packets, "nothing hostile comes through"
        assert genuine.issuperset(map(hash, b.superpackets)), "but what was held back may, in the end"
        b.superpackets.clear()
        net.run(0.25)
        if done >= COUNT // 10 and not settled:
            settled = resident()
    assert resident() - settled < GROWTH_MAX
    assert heard_by_b >= 0.95 * by_a
    assert heard_by_a >= 0.95 * by_b
    assert heard_frames >= 0.4 * frames > 0
    assert PARTIAL_COST_MAX < most <= PARTIALS_MAX * PARTIAL_COST_MAX
    net.run(2)
    assert b.device._shared.reassembly.used == 0
    for host, other in ((a, b), (b, a)):
        assert host.device.state().peers[0].endpoint == other.endpoint
        assert len(host.device._shared.keypairs) <= 4
        assert len(host.device._shared.handshakes) <= 1
        assert len(host.device._inbound._admission._rate_limiter) <= SOURCES_MAX
        assert set(host.drops()) <= set(Drop)
        assert host.drops()[Drop.COOKIE_SENT] > 0
    assert {Drop.SUPERFRAME_TAG, Drop.SUPERFRAME_FRAGMENT, Drop.SUPERFRAME_INCOMPLETE} <= set(b.drops())
    # A fragment that is kept is none, but its frame is in the end.
    assert sum(sum(host.drops().values()) for host in (a, b)) >= (0.99 - FORGED) * COUNT
