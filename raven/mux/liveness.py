"""Is the peer still there? Pings when it has been silent, and the verdict when it stays silent.

Anything heard is an answer. While streams are open somebody waits, so one second of silence asks for a sign
and 1.8 more without one end the connection: a dead path is noticed in under 3 seconds. Without streams the
initiator pings after 20 s, the responder only if that ping did not come: 224 bytes of IP packets a ping,
0.97 MB a day. The verdict is only as good as our own clock: when the timer was late the process slept,
perhaps the whole machine, and the peer gets another chance.
"""

from enum import Enum, auto
from typing import Final

ACTIVE_INTERVAL: Final = 1.0  # seconds of silence while streams are open
ACTIVE_TIMEOUT: Final = 1.8  # seconds for an answer while streams are open
IDLE_INTERVAL: Final = 20.0  # seconds; below the 30 s after which the strictest NATs forget
RESPONDER_EXTRA: Final = 5.0  # seconds the responder gives the initiator's ping
IDLE_TIMEOUT: Final = 10.0  # seconds for an answer without streams
LATE: Final = 0.5  # seconds; a timer later than this says that we slept, not the peer
SAMPLE_BYTES: Final = 256 * 1024  # bytes heard since the last ping that make a new round-trip sample worth it
OUTSTANDING_MAX: Final = 16  # pings whose answer may still come; older ones are forgotten


class Verdict(Enum):
    """What the silence means now."""

    WAIT = auto()
    PING = auto()  # send one
    DEAD = auto()  # the peer did not answer in time


class Liveness:
    """One connection's pings. `active` is told by the connection: whether any stream is open."""

    def __init__(self, *, initiator: bool, now: float) -> None:
        self.active = False
        self.last_heard = now
        self.rtt: float | None = None  # seconds, smoothed like TCP's (RFC 6298: 7/8 old, 1/8 new)
        self._idle_interval = IDLE_INTERVAL if initiator else IDLE_INTERVAL + RESPONDER_EXTRA
        self._unanswered_since: float | None = None  # of the first ping since anything was heard
        self._last_ping = now
        self._heard_bytes = 0  # since the last ping
        self._token = 0
        self._outstanding: dict[int, float] = {}  # token to time sent

    def heard(self, size: int, now: float) -> None:
        """`size` bytes of any kind came from the peer."""
        self.last_heard = now
        self._unanswered_since = None
        self._heard_bytes += size

    def ping_sent(self, now: float) -> int:
        """The token for the PING that is being queued."""
        if self._unanswered_since is None:
            self._unanswered_since = now
        self._last_ping = now
        self._heard_bytes = 0
        self._token = (self._token + 1) & 0xFFFFFFFF
        self._outstanding[self._token] = now
        if len(self._outstanding) > OUTSTANDING_MAX:
            del self._outstanding[next(iter(self._outstanding))]
        return self._token

    def pong_received(self, token: int, now: float) -> float | None:
        """Round trip in seconds of the PING with `token`; None when we do not remember such a PING."""
        sent = self._outstanding.pop(token, None)
        if sent is None:
            return None
        sample = now - sent
        self.rtt = sample if self.rtt is None else self.rtt * 0.875 + sample * 0.125
        return sample

    def wants_sample(self, now: float) -> bool:
        """Whether a PING should measure the path again although the peer is not silent."""
        return self._heard_bytes >= SAMPLE_BYTES and now - self._last_ping >= ACTIVE_INTERVAL

    def next_timeout(self) -> float:
        """When `check` should be called next; may move either way whenever something happens."""
        if self._unanswered_since is not None:
            return self._unanswered_since + self._timeout
        return self.last_heard + self._interval

    def check(self, now: float) -> Verdict:
        """The verdict at `now`; after PING call `ping_sent`."""
        late = now - self.next_timeout()
        if late < 0:
            return Verdict.WAIT
        if self._unanswered_since is None:
            return Verdict.PING
        if late > LATE:
            self._unanswered_since = None
            return Verdict.PING
        return Verdict.DEAD

    @property
    def _interval(self) -> float:
        return ACTIVE_INTERVAL if self.active else self._idle_interval

    @property
    def _timeout(self) -> float:
        if not self.active:
            return IDLE_TIMEOUT
        # A path may be slow rather than dead; only what it has shown before buys it more time.
        return max(ACTIVE_TIMEOUT, 4 * (self.rtt or 0.0))
