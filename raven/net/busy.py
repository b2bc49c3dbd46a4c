"""What a gateway says instead of TLS when too many shake hands at once: come back in so many seconds.

One line in clear, sent at accept, before TLS has cost anything. Nobody signs it, so it is a wish: an agent
heeds it up to WAIT_MAX, and whoever could forge it could as well cut the connection. Each one who is turned
away gets a time of its own, so that all together they come no faster than they can be served. A gateway
that shuts down asks its agents for the same, in the GOAWAY of each tunnel.
"""

import re
from typing import Final

from raven.errors import PeerError

WAIT_MAX: Final = 60  # seconds
_LINE: Final = re.compile(rb"RAVEN BUSY ([0-9]{1,2})\n")


class Busy(PeerError):
    """The gateway asks to come back later."""

    def __init__(self, seconds: int, *, why: str = "is busy") -> None:
        super().__init__("busy", f"it {why}, and asks to come back in {seconds} s")
        self.seconds = seconds


class Pace:
    """Hands out times to come back, `rate` a second."""

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate  # seconds
        self._next = 0.0  # monotonic seconds

    def seconds(self, now: float) -> int:
        """When the next one shall come back."""
        self._next = max(self._next, now + 1.0) + self._gap
        if self._next > now + WAIT_MAX:
            # Nobody heeds more. A flood of strangers may not send all who come later back at one moment.
            self._next = now + 1.0 + self._gap
        return min(WAIT_MAX, round(self._next - now))

    def line(self, now: float) -> bytes:
        """What to tell the next one who is turned away."""
        return b"RAVEN BUSY %d\n" % self.seconds(now)


def heed_untrusted(start: bytes) -> None:
    """Called with the first bytes of a gateway's answer; Busy when they are that line."""
    if (match := _LINE.match(start)) is not None:
        raise Busy(min(WAIT_MAX, int(match[1])))
