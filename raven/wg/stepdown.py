"""Whether superframes are worth it on the way to one peer, by what the other end reports of them.

A lost datagram takes its whole frame with it, so a path that loses some is better off with plain packets. All
transitions live here. TRIAL: a few frames go, then plain packets until a report judges them. UP: frames go as
long as reports come and are good. DOWN: plain packets until `_until`, then another trial; each trial that
fails doubles the wait. No clock and no I/O; above is `peer`.
"""

import enum
from typing import Final

# Frames of a trial, of which none may be lost. It costs 2 MB; a path that loses one datagram in 2000 fails
# half of the time.
TRIAL_FRAMES: Final = 32
# Frames that are judged together afterwards, and the seconds that they must have taken at least. A buffer
# that overflows loses ten or twenty frames in a row, as it loses packets; at 5 Gb/s 128 frames pass in 13 ms.
WINDOW_FRAMES: Final = 128
WINDOW_SECONDS: Final = 0.5
# The part of at least as many frames as a trial has that is too much at once, whenever it is lost.
RUIN: Final = 0.5
# The part of the frames judged together that may be lost. TCP takes a lost frame for one event of congestion,
# as it takes a lost packet, so what tells is the bytes sent again. Measured: where one datagram in 3000 is
# lost, 1.5 % of the frames, TCP is still twice as fast as with plain packets; with one in 1000 it is slower.
LOSS_MAX: Final = 0.02
# Seconds without a report while frames go. A report leaves REPORT_DELAY after the first frame it is about.
SILENCE_MAX: Final = 1.0
REPORT_DELAY: Final = 0.05  # seconds; at most twenty small datagrams a second
HOLD_MIN, HOLD_MAX = 4.0, 120.0  # seconds of DOWN
# Seconds of UP after which an old failure counts no more.
_PROVEN: Final = 30.0
NEVER: Final = float("-inf")


class Step(enum.Enum):
    """Where the sender stands."""

    TRIAL = enum.auto()  # a few frames are on their way, or may go
    UP = enum.auto()  # superpackets go as frames
    DOWN = enum.auto()  # plain packets only, until a moment


class StepDown:
    """The sender's choice for one peer."""

    __slots__ = (
        "_awaiting",
        "_hold",
        "_last_sent",
        "_left",
        "_lost",
        "_seen",
        "_since",
        "_until",
        "_window_began",
        "step",
    )

    def __init__(self) -> None:
        self.step = Step.TRIAL
        self._left = TRIAL_FRAMES  # frames that the trial may still send
        self._seen = self._lost = 0  # frames judged so far, in this window
        self._window_began = 0.0
        self._awaiting = NEVER  # when the first frame was sent that no report knows of; NEVER: none is
        self._last_sent = NEVER
        self._since = 0.0  # when UP began
        self._until = 0.0  # when DOWN ends
        self._hold = HOLD_MIN

    def allows(self, now: float) -> bool:
        """Whether the next superpacket may go as a frame."""
        if now - self._last_sent > SILENCE_MAX:
            # After a pause silence proves nothing: a lone report may have been lost.
            self._awaiting = NEVER
            if self.step is Step.TRIAL:
                self._left = TRIAL_FRAMES
        if self.step is Step.DOWN:
            if now < self._until:
                return False
            self.step = Step.TRIAL
            self._left = TRIAL_FRAMES
            self._start_window(now)
        if self._awaiting != NEVER and now - self._awaiting > SILENCE_MAX:
            self._fail(now)
            return False
        if self.step is Step.TRIAL and not self._left:
            self._last_sent = now  # packets go, so this is no pause
            return False
        return True

    def sent(self, now: float) -> None:
        """Call after each frame."""
        self._last_sent = now
        if self._awaiting == NEVER:
            self._awaiting = now
        if self.step is Step.TRIAL:
            self._left -= 1

    def reported(self, sent: int, lost: int, now: float, *, outstanding: bool) -> None:
        """Call with how many more frames the other end knows of, and of those it lacks.

        `lost` may be negative: a frame that came very late. `outstanding`: there are
        frames that it does not know of yet.
        """
        self._awaiting = now if outstanding else NEVER
        if self.step is Step.DOWN:
            return
        self._seen += sent
        self._lost += lost
        if self.step is Step.TRIAL:
            if self._lost > 0:
                self._fail(now)
            elif not self._left and not outstanding:
                self.step = Step.UP
                self._since = now
                self._start_window(now)
            return
        ripe = now - self._window_began >= WINDOW_SECONDS
        if (ripe and self._lost > LOSS_MAX * max(self._seen, WINDOW_FRAMES)) or (
            self._lost > RUIN * max(self._seen, TRIAL_FRAMES)
        ):
            self._fail(now)
            return
        if now - self._since > _PROVEN:
            self._hold = HOLD_MIN
        if ripe and self._seen >= WINDOW_FRAMES:
            self._start_window(now)

    def _fail(self, now: float) -> None:
        self.step = Step.DOWN
        self._until = now + self._hold
        self._hold = min(2 * self._hold, HOLD_MAX)
        self._awaiting = NEVER

    def _start_window(self, now: float) -> None:
        self._seen = self._lost = 0
        self._window_began = now
