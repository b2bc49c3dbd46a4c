"""How large a packet may be on the way to one peer: learnt, doubted and learnt again. No I/O, no clock.

Toward a peer that answers probes (`inband`), as RFC 8899 describes it: nothing but an authenticated answer
makes a size count, so neither a forged ICMP message nor a lost one decides anything. A search asks for the
link's whole MTU first, and while that is all there is to know, it costs one probe for each path. Without an
answer it asks for the sizes of common paths at once, then narrows the gap, four sizes a round, to the byte.

A plain WireGuard peer answers no probes. There the host's own knowledge of the path (`hint`) is what TCP and
padding keep to, while larger packets still leave, in fragments, as from any WireGuard: whoever configures an
MTU above the path's wants that. And there is one sign that WireGuard gives by itself: large packets went,
nothing came back for 15 seconds, not even the keepalive that any packet earns, and yet the new handshake
passes at once. Such a path swallows what is large.

All sizes are bytes of an inner packet. Above is `peer`.
"""

from typing import Final

from raven.wg.inband import PROBE_MIN, Probe
from raven.wg.run_check import RunCheck

NEVER: Final = float("inf")
UNLIMITED: Final = 65535

# Smaller packets are sent without a doubt: each IPv4 host takes 576 bytes (RFC 791), less what is around.
FLOOR: Final = 576 - 60
# Paths that exist, less 60 bytes for IPv4, UDP and WireGuard, or 80 for IPv6: jumbo frames, Ethernet, PPPoE,
# tunnels of all sorts, mobile networks, IPv6's least, and some below.
_COMMON: Final = (
    *(8920, 4392, 1440, 1420, 1412, 1400, 1380, 1360, 1340, 1300, 1280, 1260, 1240, 1220, 1200),
    *(1064, 940, 760, FLOOR),
)
_AT_ONCE: Final = 4  # sizes of a round that narrows: 100 bytes between two common ones take three
_TRIES: Final = 2  # times that a size is asked for before it counts as too large
_RTT_UNKNOWN: Final = 1.0  # seconds to wait for the first answer of a path
_WAIT_MIN, _WAIT_MAX = 0.2, 2.0  # seconds
CONFIRM: Final = 15.0  # seconds between two doubts while large packets are sent; a probe of 1.4 kB each
SILENT: Final = 1.0  # seconds without an answer to large packets after which they are doubted at once
RAISE: Final = 600.0  # seconds until a larger size is tried again (RFC 8899's PMTU_RAISE_TIMER)
_PAUSE: Final = 5.0  # seconds between two searches at least, whatever roaming or loss suggests
_HINT_AGE: Final = 10.0  # seconds that the host's knowledge of a path is used
_SMALLER: Final = (1200, 1064, FLOOR)  # what a plain peer's path is taken for, in turn, when it swallows


class PathMtu:
    """One peer's path. `advice` fits in one piece, as far as is known; what is above `limit` is lost."""

    __slots__ = (
        "_check_at",
        "_deadline",
        "_high",
        "_hint",
        "_hint_at",
        "_low",
        "_raise_at",
        "_rtt",
        "_sent_at",
        "_silences",
        "_sizes",
        "_started",
        "_token",
        "_top",
        "_tries",
        "_unanswered",
        "_unheard_since",
        "advice",
        "cooperative",
        "limit",
        "proven",
        "runs",
        "unheard",
    )

    def __init__(self) -> None:
        self.limit = self.advice = UNLIMITED
        self.cooperative = False  # the other end answers probes, so somebody who knows both ends says
        self.proven = 0  # the largest size that was answered on this path
        self.runs = RunCheck()  # whether packets of that size also arrive in runs
        self.unheard = False  # large packets went since the peer was heard last
        self._unheard_since = 0.0
        self._check_at = 0.0  # large packets start a search from then on
        self._raise_at = 0.0
        self._started = -NEVER  # when the last search began
        self._rtt = 0.0
        self._unanswered = 0  # searches in a row without any answer
        self._silences = 0  # times in a row that large packets went and nothing came back
        self._hint = 0  # what the host knows of the path
        self._hint_at = -NEVER
        self._stop()

    def _stop(self) -> None:
        self._sizes: list[int] = []  # asked for and not answered, ascending; empty: no search
        self._deadline = NEVER
        self._low = self._high = self._top = 0
        self._tries = 0
        self._token = 0
        self._sent_at = 0.0

    @property
    def deadline(self) -> float:
        """When to call `timed_out`."""
        return self._deadline

    # What happened --------------------------------------------------------------------------------

    def changed(self) -> None:
        """Call when the peer is somewhere else now, or another end: what is known is in doubt."""
        self._stop()
        self.limit = self.advice = UNLIMITED
        self.proven = 0
        self._check_at = self._raise_at = self._rtt = 0.0
        self._hint_at = -NEVER
        self._unanswered = self._silences = 0
        self.unheard = False
        self.runs.changed()

    def link_raised(self, before: int) -> None:
        """Call when the link takes larger packets than `before`: a path that took all of those may take more.

        One that did not is as narrow as it was, and stays proven.
        """
        if self.cooperative and self.limit >= before:
            self.changed()

    def interrupted(self) -> None:
        """Call when nothing can be sent any more, for want of keys: a search in vain would say nothing."""
        self._stop()

    def large_sent(self, now: float) -> bool:
        """Call when a packet above FLOOR went; whether that should start a search or ask for a hint."""
        if not self.unheard:
            self.unheard, self._unheard_since = True, now
        return self.is_due(now)

    def is_due(self, now: float) -> bool:
        """Whether there is reason to search, or to ask for a hint, by now."""
        if self._sizes:
            return False
        if not self.cooperative:
            return now - self._hint_at >= _HINT_AGE
        silent = self.unheard and not self._unanswered and now - self._unheard_since >= SILENT
        return (silent or now >= self._check_at) and now - self._started >= _PAUSE

    def hinted(self, size: int, now: float) -> None:
        """Call with what the host knows of the path, 0 for nothing. Toward a plain peer it is advice."""
        self._hint, self._hint_at = size, now
        if not self.cooperative:
            if now >= self._raise_at:
                self.limit = UNLIMITED
            self.advice = max(FLOOR, min(size or UNLIMITED, self.limit))

    def search(self, top: int, token: int, now: float) -> list[Probe]:
        """Starts a search for the largest size up to `top`; the probes to send."""
        self._started = now
        if self.proven and self.proven < top and now < self._raise_at:
            top = self.proven  # is it still true?
        self._token, self._top = token, max(top, PROBE_MIN)
        self._low, self._high = 0, self._top + 1
        return self._ask([self._top], now)

    def answered(self, probe: Probe, now: float) -> list[Probe]:
        """Call with an authentic answer; the probes to send next."""
        if not self._sizes or probe.token != self._token or not self._low < probe.size < self._high:
            return []
        # An answer to the first try may come during the second; the shortest wait makes up for that.
        self._rtt = now - self._sent_at
        self._low = probe.size
        self._sizes = [size for size in self._sizes if size > probe.size]
        if self._low == self._top or self._high - self._low <= 1:
            return self._found(now)
        if self._high <= self._top:
            self._use(self._low)  # a larger one has failed already
        if not self._sizes:
            return self._narrow(now)
        # What left together arrives together: the others have not much longer.
        self._deadline = min(self._deadline, now + max(_WAIT_MIN, self._rtt))
        return []

    def timed_out(self, now: float) -> list[Probe]:
        """Call when `deadline` has passed; the probes to send next."""
        if not self._sizes:
            self._deadline = NEVER
            return []
        if self._tries < _TRIES:
            first = self._low == 0 and self._high > self._top
            return self._ask(self._ladder() if first else self._sizes, now, again=True)
        self._high = min(self._sizes)
        if not self._low:
            # Not even the smallest: the path is down, or the peer answers nothing. That says nothing about
            # sizes, so what was known stays.
            self._stop()
            self._check_at = now + min(RAISE, CONFIRM * 2**self._unanswered)
            self._unanswered = min(self._unanswered + 1, 16)
            return []
        self._use(self._low)
        # A hint that has proven itself is the path's own word on where it ends.
        return self._found(now) if self._low == self._hint else self._narrow(now)

    def heard(self) -> None:
        """Call when a packet came from the peer although `unheard`."""
        self.unheard = False
        self._silences = 0

    def fell_silent(self) -> None:
        """Call when for 15 s after data nothing at all came back, and a new handshake begins."""
        if self.unheard and not self.cooperative:
            self._silences += 1

    def handshake_completed(self, top: int, now: float, *, at_once: bool) -> None:
        """Call after each handshake; `at_once` if its first message was answered.

        Once may be a peer that was started anew and has lost its keys. Twice in a row, or once on a path
        that has done so before, swallows what is large.
        """
        if not at_once:
            self._silences = 0
        elif self._silences >= (1 if now < self._raise_at else 2):
            self._silences = 0
            self.limit = next((size for size in _SMALLER if size < min(self.advice, top)), FLOOR)
            self.advice = self.limit
            self._raise_at = now + RAISE

    # Searching ------------------------------------------------------------------------------------

    def _ask(self, sizes: list[int], now: float, *, again: bool = False) -> list[Probe]:
        self._sizes = sizes
        self._tries = self._tries + 1 if again else 1
        self._sent_at = now
        wait = 2 * self._rtt + 0.05 if self._rtt else _RTT_UNKNOWN
        self._deadline = now + min(_WAIT_MAX, max(_WAIT_MIN, wait * self._tries))
        return [Probe(size, self._token) for size in sizes]

    def _ladder(self) -> list[int]:
        sizes = {size for size in _COMMON if size < self._top} | {self._top}
        if FLOOR < self._hint < self._top:
            sizes.add(self._hint)  # perhaps a lie, so it has to prove itself like any other
        return sorted(sizes)

    def _narrow(self, now: float) -> list[Probe]:
        """The next round between the largest that passed and the smallest that did not."""
        gap = self._high - self._low
        if gap <= 1:
            return self._found(now)
        count = min(_AT_ONCE, gap - 1)
        sizes = sorted({self._low + gap * part // (count + 1) for part in range(1, count + 1)} - {self._low})
        return self._ask(sizes, now)

    def _use(self, size: int) -> None:
        self.proven = size
        self.limit = self.advice = max(FLOOR, size)

    def _found(self, now: float) -> list[Probe]:
        self._use(self._low)
        if self._low < self._top:
            self._raise_at = now + RAISE
        self._stop()
        self._check_at = now + CONFIRM
        self._unanswered = 0
        return []
