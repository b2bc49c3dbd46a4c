"""Packets that wait for a handshake: a short queue for each peer, and one budget for all of them."""

from collections import deque
from collections.abc import Iterator, Sequence

from raven.wg.packet import outer_fields

STAGED_MAX = 128  # packets of one peer, the newest; the kernel's MAX_STAGED_PACKETS
STAGED_BYTES_MAX = 8 << 20  # of all peers: the full queues of a thousand would be 180 MB of the machine


class StagingBudget:
    """The bytes that all queues of one device hold together."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class StagedPackets:
    """One peer's queue. When it or the budget is full the oldest goes: its sender has given up most."""

    __slots__ = ("_budget", "_packets")

    def __init__(self, budget: StagingBudget) -> None:
        self._budget = budget
        self._packets: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, packet: bytes) -> int:
        """Keeps `packet`; returns how many had to go instead, maybe this one."""
        budget = self._budget
        packets = self._packets
        dropped = 0
        while packets and (len(packets) >= STAGED_MAX or budget.used + len(packet) > STAGED_BYTES_MAX):
            budget.used -= len(packets.popleft())
            dropped += 1
        if budget.used + len(packet) > STAGED_BYTES_MAX:
            return dropped + 1
        packets.append(packet)
        budget.used += len(packet)
        return dropped

    def take(self) -> list[bytes]:
        """Empties the queue, in order."""
        packets = list(self._packets)
        self._packets.clear()
        self._budget.used -= sum(map(len, packets))
        return packets


def runs_of(packets: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], int, int]]:
    """The packets in order, as runs of one size that leave alike, each with its TOS and hop limit."""
    start = 0
    while start < len(packets):
        size, outer = len(packets[start]), outer_fields(packets[start])
        end = start + 1
        while end < len(packets) and len(packets[end]) == size and outer_fields(packets[end]) == outer:
            end += 1
        yield packets[start:end], *outer
        start = end
