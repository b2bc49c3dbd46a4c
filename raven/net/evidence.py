"""What shows that a peer of the packet lane is there, and when that is not enough and it has to be asked.

Plain values that take `now`; each end looks at its device's counters every few seconds, asks by a probe when
`due` says so, and tells here what came of it. WireGuard proves much by itself, and every probe is paid for on
metered links: what is received is authenticated, a handshake is a round trip, and a spoke makes one every two
minutes for its keepalives. So an idle peer is hardly asked; one that others wait for, at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raven.wg.configuration import PeerState

# Seconds without a byte before a spoke is asked: its keepalives come every 25 s and are seen 10 s later.
SPOKE_SILENCE_MAX: Final = 40.0
# Seconds without a round trip, or for a spoke without a byte of its hub, before the other is asked: a
# keepalive makes a handshake when the keys are 120 s old, so every 145 s at most.
ROUND_TRIP_MAX: Final = 150.0
RTT_MAX: Final = 600.0  # seconds after which the time of a round trip is measured anew
ASK_INTERVAL: Final = 18.0  # seconds between two questions to who does not answer
ASK_SOON: Final = 2.0  # seconds, while it is new or has just stopped to answer
SOON_MAX: Final = 60.0  # seconds that lasts: what is switched off must not be asked every other second
# Bytes that a device sends of itself in a while: a keepalive, and an initiation every 5 s.
_UPKEEP: Final = frozenset(32 * keepalives + 148 * tries for keepalives in range(2) for tries in range(4))


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Of one peer. Times are `now` of the calls, in seconds; None: never."""

    silence_max: float = SPOKE_SILENCE_MAX  # seconds without a byte that are nothing unusual
    spread: float = 1.0  # times each pause, so that thousands are not asked in one moment
    heard: float | None = None  # when it last sent anything, as far as was looked
    proven: float | None = None  # when a round trip last ended: a probe's, or WireGuard's handshake
    answered: float | None = None  # when a probe was last answered
    rtt: float | None = None  # seconds, of that probe
    failure: str = ""  # why the last probe was not answered; "" when it was
    failing_since: float | None = None  # when that began
    asking: bool = False
    _asked: float | None = None  # when the last question ended
    _came: float | None = None  # when it was new, or back
    missed: bool = False  # it asks for us in vain, as we were told another way
    _waited: bool = False  # somebody sends to it, and nothing comes back
    _rx: int | None = None  # the device's counters at the last look; None: there was none
    _tx: int = 0

    def came(self, now: float) -> None:
        """Call when it is new, or has come back: it is asked soon."""
        self._came = now

    def looked(self, peer: PeerState, *, handshake_age: float | None, now: float) -> None:
        """Call with each look at the device's counters, which start anew with the device."""
        first, had = self._rx is None, self._rx or 0
        received = peer.rx_bytes > had and not first  # a device that was there may have counted long ago
        sent = peer.tx_bytes - self._tx
        if handshake_age is not None:
            self.proven = max(self.proven or 0.0, now - handshake_age)
            self.heard = max(self.heard or 0.0, self.proven)
        if received:
            self.heard = now
        # Before the first byte of it there is no path to judge, and initiations are all that is sent.
        self._waited = had > 0 and not received and sent > 0 and sent not in _UPKEEP
        self._rx, self._tx = peer.rx_bytes, peer.tx_bytes

    def lost_device(self) -> None:
        """Call when there are no counters any more."""
        self._rx, self._waited = None, False

    def age(self, now: float) -> float | None:
        """Seconds since the last proof that it is there; of both directions, if a probe was not answered."""
        at = self.proven if self.failure else self.heard
        return None if at is None else now - at

    def due(self, now: float) -> bool:
        """Whether to ask it now."""
        if self.asking:
            return False
        asked = None if self._asked is None else now - self._asked
        since_came = SOON_MAX if self._came is None else now - self._came
        if self.failure or self.answered is None:
            since = since_came if self.failing_since is None else min(since_came, now - self.failing_since)
            pause = ASK_SOON if since < SOON_MAX else ASK_INTERVAL
            return asked is None or asked >= self.spread * pause
        if asked is None or (self._came is not None and since_came < asked):
            return since_came >= ASK_SOON
        return (
            ((self._waited or self.missed) and asked >= ASK_SOON)
            or _older(self.heard, self.spread * self.silence_max, now)
            or _older(self.proven, ROUND_TRIP_MAX, now)
            or _older(self.answered, self.spread * RTT_MAX, now)
        )

    def was_answered(self, rtt: float, now: float) -> None:
        """Call when a probe was answered."""
        self.heard = self.proven = self.answered = self._asked = now
        self.rtt, self.failure, self.failing_since = rtt, "", None
        self.missed = self._waited = False

    def was_not(self, why: str, now: float) -> None:
        """Call when a probe was not answered."""
        if not self.failure:
            self.failing_since = now
        self.failure, self._asked = why, now


def _older(at: float | None, limit: float, now: float) -> bool:
    return at is None or now - at > limit
