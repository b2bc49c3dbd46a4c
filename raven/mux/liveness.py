"""Is the peer still there, and does it hear us? Pings, and the verdict when nobody confirms them.

Hearing the peer is no proof: a path may die in one direction. So a ping asks for a receipt of something sent
after it, and until that has come the verdict draws nearer; receipts of older bytes only put it off, because a
slow path with a full queue is not a dead one. While streams are open somebody waits: the initiator asks every
second, the responder when it has heard nothing for as long, and 1.6 s without a receipt end the transport.
Whichever direction died, both ends know within 3 seconds, by their own verdict or because the other
hangs up. Without streams the initiator pings after a pause that it learns (`keepalive`), the responder only
if that ping did not come.

The verdict is only as good as our own clock: when the timer was late the process slept, perhaps the whole
machine, and the peer gets another chance.
"""

from enum import Enum, auto
from math import ceil
from typing import Final

from raven.mux.keepalive import PAUSE_FIRST, Keepalive

ACTIVE_INTERVAL: Final = 1.0  # seconds between the initiator's pings while streams are open
ACTIVE_SILENCE: Final = 1.1  # seconds of silence after which the responder asks then
ACTIVE_TIMEOUT: Final = 1.6  # seconds for a receipt while streams are open
RESPONDER_EXTRA: Final = 5.0  # seconds the responder gives the initiator's ping
IDLE_TIMEOUT: Final = 5.0  # seconds for a receipt without streams; four attempts of TCP
LATE: Final = 0.5  # seconds; a timer later than this says that we slept, not the peer
PEER_PAUSE_MAX: Final = 300.0  # seconds; a peer that says it will be silent for longer is asked all the same
SAMPLE_BYTES: Final = 256 * 1024  # bytes heard since the last ping that make a new round-trip sample worth it
OUTSTANDING_MAX: Final = 16  # pings whose answer may still come; older ones are forgotten


class Verdict(Enum):
    """What the silence means now."""

    WAIT = auto()
    PING = auto()  # send one
    DEAD = auto()  # the peer did not confirm in time


class Liveness:
    """One connection's pings. `active` is told by the connection: whether any stream is open."""

    def __init__(self, *, initiator: bool, now: float, keepalive: Keepalive | None = None) -> None:
        self.active = False
        self.last_heard = now
        self.rtt: float | None = None  # seconds, smoothed like TCP's (RFC 6298: 7/8 old, 1/8 new)
        self._initiator = initiator
        self._keepalive = keepalive or Keepalive()
        self._peer_pause = PAUSE_FIRST  # seconds; what the initiator's pings say
        self._asked: float | None = None  # when the ping was sent that waits for a receipt
        self._asked_at = 0  # offset of our sequence that a receipt must go beyond
        self._asked_after: float | None = None  # seconds of silence before it, when the connection was idle
        self._progress = now  # of the last receipt that said anything new
        self._last_ping = now
        self._heard_bytes = 0  # since the last ping
        self._token = 0
        self._stale = 0  # tokens up to here belong to a transport that is gone
        self._outstanding: dict[int, float] = {}  # token to time sent

    @property
    def pause(self) -> int:
        """Most seconds to the next ping of an idle connection, for the PING being written; 0: no idea."""
        return ceil(self._keepalive.next_pause_most) if self._initiator else 0

    @property
    def evidence_max(self) -> float:
        """Seconds for which silence is no bad sign."""
        pause = self._keepalive.pause if self._initiator else self._peer_pause
        return pause + RESPONDER_EXTRA + IDLE_TIMEOUT

    def heard(self, size: int, now: float) -> None:
        """`size` bytes of any kind came from the peer."""
        self.last_heard = now
        self._heard_bytes += size

    def paused(self, pause: int) -> None:
        """The peer's PING said when its next one may come."""
        if pause:
            self._peer_pause = min(float(pause), PEER_PAUSE_MAX)

    def receipt(self, received: int, now: float) -> None:
        """The peer has confirmed more than before: all bytes before `received`."""
        self._progress = now
        if self._asked is not None and received > self._asked_at:
            self._asked = None
            if self._asked_after is not None:
                self._keepalive.survived(self._asked_after)

    def ping_sent(self, now: float, offset: int) -> int:
        """The token for the PING that is being queued, behind the first `offset` bytes of our sequence."""
        if self._asked is None:
            self._asked, self._asked_at = now, offset
            silence = now - max(self.last_heard, self._last_ping)
            self._asked_after = None if self.active else silence
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
        if token > self._stale:
            self.rtt = sample if self.rtt is None else self.rtt * 0.875 + sample * 0.125
        return sample

    def wants_sample(self, now: float) -> bool:
        """Whether a PING should measure the path again although the peer is not silent."""
        return self._heard_bytes >= SAMPLE_BYTES and now - self._last_ping >= ACTIVE_INTERVAL

    def transport_lost(self) -> None:
        """Nothing can be asked until `transport_came`."""
        if self._asked is not None and self._asked_after is not None:
            self._keepalive.died(self._asked_after)
        self._asked = None
        self._stale = self._token

    def transport_came(self, now: float) -> None:
        """The peer has just been heard on a new transport."""
        self.last_heard = self._progress = self._last_ping = now
        self._asked = None

    def next_timeout(self) -> float:
        """When `check` should be called next; may move either way whenever something happens."""
        if self._asked is not None:
            return max(self._asked, self._progress) + self._timeout
        if self.active:
            return self._last_ping + ACTIVE_INTERVAL if self._initiator else self.last_heard + ACTIVE_SILENCE
        if self._initiator:
            return max(self.last_heard, self._last_ping) + self._keepalive.pause
        return max(self.last_heard, self._last_ping) + self._peer_pause + RESPONDER_EXTRA

    def check(self, now: float) -> Verdict:
        """The verdict at `now`; after PING call `ping_sent`."""
        late = now - self.next_timeout()
        if late < 0:
            return Verdict.WAIT
        if self._asked is None:
            return Verdict.PING
        if late > LATE:
            self._asked = None
            return Verdict.PING
        return Verdict.DEAD

    @property
    def _timeout(self) -> float:
        if not self.active:
            return IDLE_TIMEOUT
        # A path may be slow rather than dead; only what it has shown before buys it more time.
        return max(ACTIVE_TIMEOUT, 4 * (self.rtt or 0.0))
