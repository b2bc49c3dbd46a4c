"""Datagrams by people who mean harm: random, truncated, extended, bit-flipped and replayed."""

import struct

from tests.wg.pair import Host, Net


def hostile_datagram(net: Net, target: Host) -> bytes:
    random = net.random
    choice = random.randrange(7)
    if choice == 0 or not net.sent:
        return random.randbytes(random.randrange(200))
    kind = random.randrange(6)
    if choice == 1:
        length = random.choice([32, 64, 92, 148, random.randrange(300)])
        return (struct.pack("<I", kind) + random.randbytes(300))[:length]
    if choice == 2:
        indices = [*target.device._shared.keypairs, *target.device._shared.handshakes, 0]
        head = struct.pack("<IIQ", 4, random.choice(indices), random.choice([0, 5, 1 << 40, (1 << 64) - 1]))
        return head + random.randbytes(random.choice([16, 32, 100]))
    seen = random.choice(net.sent[-200:])[3]
    if choice == 3:
        return seen
    if choice == 4:
        return seen[: random.randrange(len(seen))]
    if choice == 5:
        return seen + random.randbytes(random.randrange(1, 40))
    at = random.randrange(len(seen))
    return seen[:at] + bytes([seen[at] ^ 1 << random.randrange(8)]) + seen[at + 1 :]
