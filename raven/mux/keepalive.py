"""How long an idle connection may be silent: learnt from what its path forgets, kept between transports.

A NAT drops the mapping of a connection that was silent for too long, and nobody knows for how long. So the
silence between two pings grows while the path survives it, and halves when it does not. A silence that once
killed the path is not tried again for a while.
"""

from typing import Final

PAUSE_FIRST: Final = 25.0  # seconds; below the 30 s after which the strictest NATs forget
PAUSE_LEAST: Final = 10.0  # seconds; what forgets sooner than that does not carry TCP for anybody
# Seconds. 242 bytes of IP packets a ping: 0.42 MB a day; what is dead for a minute must not pass for alive.
PAUSE_MOST: Final = 50.0
GROWTH: Final = 1.25
SURVIVED_TWICE: Final = 2  # silences in a row before a longer one is tried
FORGIVEN: Final = 200  # silences in a row after which a deadly one is tried again: it may have been an outage


class Keepalive:
    """What one path has taught; `pause` is the silence to allow now, in seconds."""

    def __init__(self, pause: float = PAUSE_FIRST) -> None:
        self.pause = pause
        self._deadly: float | None = None  # the shortest silence that the path did not survive
        self._survived = 0  # in a row

    @property
    def next_pause_most(self) -> float:
        """Seconds that the next silence has at most, whatever becomes of this one."""
        return min(self.pause * GROWTH, PAUSE_MOST)

    def survived(self, silence: float) -> None:
        """A ping after `silence` seconds was answered."""
        if silence < 0.9 * self.pause:
            return  # something else kept the path awake
        self._survived += 1
        if self._survived >= FORGIVEN:
            self._deadly = None
        if self._survived >= SURVIVED_TWICE:
            longer = self.next_pause_most
            if self._deadly is None or longer < 0.9 * self._deadly:
                if longer > self.pause:
                    self._survived = 0
                self.pause = longer

    def died(self, silence: float) -> None:
        """A ping after `silence` seconds was not answered, or with a reset."""
        self._survived = 0
        if silence >= PAUSE_LEAST:
            self._deadly = min(silence, self._deadly or silence)
            self.pause = max(PAUSE_LEAST, min(self.pause, silence) / 2)
