"""Frames of which some fragments are here and some are not, within a budget.

Only fragments whose index and tag are right come here, so a stranger cannot make it keep anything. Pieces
lie in numbered slots, so nothing overlaps, whatever a fragment claims; whether the whole is what was sent
the AEAD decides. Above is `superframe_peer`, below only the sizes of `superframe`.
"""

from typing import Final

from raven.wg.endpoint import Endpoint
from raven.wg.messages import TAG_LEN
from raven.wg.superframe import FRAGMENTS_MAX, FRAME_MAX

# Frames of one peer. Datagrams that overtake each other mix two frames, or a few; what is older than that
# many is lost.
PARTIALS_MAX: Final = 8
# Of all peers of a device: enough for seven peers in the worst case, little beside the machine's memory.
PARTIAL_BYTES_MAX: Final = 4 << 20
# Seconds. A fragment that comes later than that after the first one of its frame is late beyond any use.
PARTIAL_LIFETIME: Final = 1.0
# What a slot and its bytes object cost beside the bytes: or a million one-byte fragments were free.
_PIECE_COST: Final = 64
# Of one frame, hence 544 KiB of one peer. Fragments claim to be of a frame, not how long it is: without this,
# 64 of the longest datagrams that there are would take the budget of all peers.
PARTIAL_COST_MAX: Final = FRAME_MAX + TAG_LEN + FRAGMENTS_MAX * _PIECE_COST


class ReassemblyBudget:
    """The bytes that all peers of one device keep together."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Partial:
    """One frame that is not whole yet."""

    __slots__ = ("_missing", "born", "cost", "ecn", "endpoint", "pieces", "received", "tag")

    def __init__(self, last: int, tag: int, endpoint: Endpoint, now: float) -> None:
        self.pieces: list[bytes] = [b""] * (last + 1)
        self._missing = last + 1
        self.tag = tag
        self.born = now
        self.cost = 0  # bytes of the budget
        self.received = 0  # bytes of datagrams
        self.ecn = 0  # congestion marks of any fragment
        # Where all fragments came from; None when they came from several places, which moves no peer.
        self.endpoint: Endpoint | None = endpoint

    @property
    def whole(self) -> bool:
        return not self._missing

    def holds(self, number: int) -> bool:
        return bool(self.pieces[number])

    def fill(self, number: int, piece: bytes) -> None:
        self.pieces[number] = piece
        self._missing -= 1


class Reassembly:
    """The frames of one peer that are not whole yet, by receiver's index and counter."""

    __slots__ = ("_budget", "_partials", "lost")

    def __init__(self, budget: ReassemblyBudget) -> None:
        self._budget = budget
        self._partials: dict[tuple[int, int], Partial] = {}  # the oldest first
        self.lost = 0  # frames given up; whoever counts them sets it back

    def find(self, index: int, counter: int) -> Partial | None:
        return self._partials.get((index, counter))

    def add(
        self,
        key: tuple[int, int],
        *,
        number: int,
        last: int,
        tag: int,
        piece: bytes,
        endpoint: Endpoint,
        now: float,
    ) -> Partial | None:
        """Keeps one piece (not empty); the frame it belongs to. None when it was not kept.

        It is not when its slot is filled, when it contradicts the frame's other fragments, when with them it
        is longer than any frame, or when the device's budget is full of other peers' frames. The first of two
        that claim a slot wins.
        """
        partials, budget = self._partials, self._budget
        self.expire(now)
        partial = partials.get(key)
        if partial is not None and (len(partial.pieces) != last + 1 or partial.holds(number)):
            return None
        cost = len(piece) + _PIECE_COST
        if cost + (0 if partial is None else partial.cost) > PARTIAL_COST_MAX:
            return None
        self._make_room(cost, keep=partial, new=partial is None)
        if budget.used + cost > PARTIAL_BYTES_MAX:
            return None
        if partial is None:
            partial = partials[key] = Partial(last, tag, endpoint, now)
        elif endpoint != partial.endpoint:
            partial.endpoint = None
        partial.fill(number, piece)
        partial.cost += cost
        budget.used += cost
        return partial

    def _make_room(self, cost: int, *, keep: Partial | None, new: bool) -> None:
        """Gives up this peer's oldest frames, never another peer's."""
        for key, partial in list(self._partials.items()):
            if partial is keep:
                continue
            full = new and len(self._partials) >= PARTIALS_MAX
            if not full and self._budget.used + cost <= PARTIAL_BYTES_MAX:
                break
            self.remove(*key)
            self.lost += 1

    def __bool__(self) -> bool:
        return bool(self._partials)

    def expire(self, now: float) -> None:
        """Gives up what has waited for longer than PARTIAL_LIFETIME."""
        for key, partial in list(self._partials.items()):
            if now - partial.born <= PARTIAL_LIFETIME:
                break
            self.remove(*key)
            self.lost += 1

    def pending(self, index: int, now: float, *, younger: float) -> int:
        """How many frames of that keypair have waited for less than `younger` seconds."""
        return sum(
            key[0] == index and now - partial.born < younger for key, partial in self._partials.items()
        )

    def remove(self, index: int, counter: int) -> None:
        """Call when a frame was opened, or is not worth waiting for. Nothing if it is not here."""
        partial = self._partials.pop((index, counter), None)
        if partial is not None:
            self._budget.used -= partial.cost

    def forget_keypair(self, index: int) -> None:
        """Call when the keypair of that index goes: its frames can never be opened."""
        for key in [key for key in self._partials if key[0] == index]:
            self.remove(*key)
            self.lost += 1

    def clear(self) -> None:
        for key in list(self._partials):
            self.remove(*key)
            self.lost += 1
