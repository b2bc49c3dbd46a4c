"""A flood of hostile datagrams at both ends of an honest pair that connects, transfers and renews its keys.

20,000 of them in the ordinary suite; `make test-hostile` sends a million (HOSTILE says how many). The flood
holds what `test_hostile` makes, and initiations by somebody who knows the public key, sealed to nothing.
Nothing raises, the pair loses little, its endpoints stay, and memory does not grow.
"""

import gc
import os
from pathlib import Path

import pytest

from raven.wg.cookie import MacGenerator
from raven.wg.endpoint import Endpoint
from raven.wg.messages import Initiation
from raven.wg.outbox import Drop
from raven.wg.ratelimiter import SOURCES_MAX
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair
from tests.wg.test_hostile import hostile_datagram

COUNT = int(os.environ.get("HOSTILE", "20000"))
A4, B4 = "10.0.0.1", "10.0.0.2"
ROUND = 1000  # hostile datagrams in half a second of virtual time
GROWTH_MAX = (
    8 << 20
)  # bytes; buffers of a few bursts and full tables of strangers, not of a million datagrams
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


def burst(net: Net, target: Host, count: int, knowing: float) -> list[bytes]:
    return [
        initiation(net, target) if net.random.random() < knowing else hostile_datagram(net, target)
        for _ in range(count)
    ]


@pytest.mark.timeout(3600)
def test_a_flood_of_hostile_datagrams() -> None:
    net, a, b = pair(7)
    random = net.random
    by_a = by_b = heard_by_a = heard_by_b = 0
    settled = 0
    for done in range(0, COUNT, ROUND):
        a.send([packet(A4, B4, 400, fill=done + i & 0xFF) for i in range(4)])
        b.send([packet(B4, A4, fill=done & 0xFF)])
        by_a += 4
        by_b += 1
        net.run(0.25)
        heard_by_a += len(a.packets)
        heard_by_b += len(b.packets)
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
                burst(net, target, count, knowing), other.endpoint if random.random() < 0.25 else stranger
            )
        assert not a.packets
        assert not b.packets, "nothing hostile comes through"
        net.run(0.25)
        if done >= COUNT // 10 and not settled:
            settled = resident()
    assert resident() - settled < GROWTH_MAX
    assert heard_by_b >= 0.95 * by_a
    assert heard_by_a >= 0.95 * by_b
    for host, other in ((a, b), (b, a)):
        assert host.device.state().peers[0].endpoint == other.endpoint
        assert len(host.device._shared.keypairs) <= 4
        assert len(host.device._shared.handshakes) <= 1
        assert len(host.device._inbound._admission._rate_limiter) <= SOURCES_MAX
        assert set(host.drops()) <= set(Drop)
        assert host.drops()[Drop.COOKIE_SENT] > 0
    assert sum(sum(host.drops().values()) for host in (a, b)) >= 0.99 * COUNT
