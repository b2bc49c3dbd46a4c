"""Whether a descriptor brings packets one by one, so that the engine sends the next one by the short way."""

from typing import Final

# Seconds between two wake-ups of one descriptor from where on a packet is alone. A round trip through both
# ends takes half of it; in a flood, wake-ups are as far apart as one packet's work, 30 µs.
_APART: Final = 0.0002
_NEVER: Final = float("inf")


class Lull:
    """Since when a descriptor brings packets one by one, so that the next one will be alone as well.

    Only guessed, and a wrong guess costs little: a lone packet takes a shorter way and nothing is read behind
    it, which would cost an exception; of several, the rest comes at the next wake-up, at once.
    """

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = 0.0  # when the wake-ups were far enough apart; more than one packet: never

    def brought(self, count: int, now: float) -> None:
        """Call with how many packets a wake-up brought."""
        self.until = now + _APART if count <= 1 else _NEVER
