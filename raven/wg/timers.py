"""The five timers of a peer (WireGuard paper, section 6; names and rules as in the kernel's timers.c).

`peer` records facts here, by methods named after what happened, and carries out what `due` returns. A timer
is a deadline in the clock of `now`. All peers of a device share one heap, the agenda, that says which peer
to look at next; an entry may be early, because pushing a deadline back leaves it where it is, but never
late.
"""

import enum
import heapq

from raven.keys import PublicKey
from raven.wg.constants import ERASE_AFTER_TIME, KEEPALIVE_TIMEOUT, REKEY_TIMEOUT

NEVER = float("inf")

_COMPACT_MIN = 64  # entries; below that nothing is worth compacting


class Timer(enum.Enum):
    """What has come to pass when a timer fires."""

    RETRANSMIT_HANDSHAKE = enum.auto()  # no answer to an initiation for REKEY_TIMEOUT: send another, or stop
    SEND_KEEPALIVE = enum.auto()  # data came, nothing went back for KEEPALIVE_TIMEOUT: show that we are here
    NEW_HANDSHAKE = enum.auto()  # data went, nothing came back for 15 s: the peer may have lost its keys
    ERASE_KEYS = enum.auto()  # no new keys for three REJECT_AFTER_TIME: forget the old ones
    PERSISTENT_KEEPALIVE = enum.auto()  # nothing passed for the configured interval: keep a NAT's mapping
    PATH_PROBE = enum.auto()  # our own, no part of the paper: probes of the path's MTU were not answered
    REPORT_SUPERFRAMES = enum.auto()  # our own, no part of the paper: superframes came, tell how many


class Agenda:
    """A heap of (when, serial, timers); entries that were overtaken are skipped when they surface."""

    __slots__ = ("_compact_at", "_heap", "_serial", "changed")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PeerTimers]] = []
        self._serial = 0  # makes entries of one time comparable
        self._compact_at = _COMPACT_MIN
        self.changed = False  # `next` may be earlier than when it was asked last

    def add(self, when: float, timers: "PeerTimers") -> None:
        if len(self._heap) >= self._compact_at:
            # Far entries that near ones overtook would stay for up to nine minutes.
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].scheduled]
            heapq.heapify(self._heap)
            self._compact_at = _COMPACT_MIN + 2 * len(self._heap)
        self._serial += 1
        self.changed = True
        heapq.heappush(self._heap, (when, self._serial, timers))

    def next(self) -> float | None:
        """When to look again; None without any timer."""
        self.changed = False
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].scheduled:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> list["PeerTimers"]:
        """Whose entries are due; each must be `rescheduled` after it was looked at."""
        due = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, _, timers = heapq.heappop(heap)
            if when == timers.scheduled:
                timers.scheduled = NEVER
                due.append(timers)
        return due


class PeerTimers:
    """The deadlines of one peer; each changes through a method here, so that the agenda is never late."""

    __slots__ = (
        "_agenda",
        "_erase",
        "_jitter",
        "_keepalive",
        "_new_handshake",
        "_persistent",
        "_persistent_interval",
        "_probe",
        "_report",
        "_retransmit",
        "owner",
        "scheduled",
    )

    def __init__(self, agenda: Agenda, owner: PublicKey) -> None:
        self.owner = owner
        self.scheduled = NEVER  # the agenda's entry that counts
        self._agenda = agenda
        self._persistent_interval = 0
        self._jitter = 0.0
        self.clear()

    def clear(self) -> None:
        """Call when the peer is removed, or the device forgets its keys: nothing fires any more."""
        self._retransmit = self._keepalive = self._new_handshake = self._erase = self._persistent = NEVER
        self._probe = self._report = NEVER
        self.scheduled = NEVER

    def due(self, now: float) -> list[Timer]:
        """Takes the timers that have fired, in the order to serve them. Call `reschedule` after serving."""
        fired = []
        if self._retransmit <= now:
            self._retransmit = NEVER
            fired.append(Timer.RETRANSMIT_HANDSHAKE)
        if self._keepalive <= now:
            self._keepalive = NEVER
            fired.append(Timer.SEND_KEEPALIVE)
        if self._new_handshake <= now:
            self._new_handshake = NEVER
            fired.append(Timer.NEW_HANDSHAKE)
        if self._erase <= now:
            self._erase = NEVER
            fired.append(Timer.ERASE_KEYS)
        if self._persistent <= now:
            self._persistent = NEVER
            fired.append(Timer.PERSISTENT_KEEPALIVE)
        if self._probe <= now:
            self._probe = NEVER
            fired.append(Timer.PATH_PROBE)
        if self._report <= now:
            self._report = NEVER
            fired.append(Timer.REPORT_SUPERFRAMES)
        return fired

    def reschedule(self) -> None:
        """Puts the earliest deadline on the agenda."""
        self._arm(
            min(
                *(self._retransmit, self._keepalive, self._new_handshake),
                *(self._erase, self._persistent, self._probe, self._report),
            )
        )

    def interval_configured(self, seconds: int) -> None:
        """Call when the persistent keepalive is set; the next message that passes starts it. 0 stops it."""
        self._persistent_interval = seconds
        if not seconds:
            self._persistent = NEVER

    def messages_sent(self, now: float, *, data: bool) -> None:
        """Call after any authenticated message left, handshake included; `data` if a packet was inside."""
        self._keepalive = NEVER
        if data and self._new_handshake == NEVER:
            self._new_handshake = now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self._jitter
            self._arm(self._new_handshake)
        if self._persistent_interval:
            self._persistent = now + self._persistent_interval
            self._arm(self._persistent)

    def messages_received(self, now: float, *, data: bool) -> None:
        """Call after any authenticated message came, handshake included; `data` if a packet was inside."""
        self._new_handshake = NEVER
        # The kernel notes here that more data came while the timer ran, and sends a second keepalive. We do
        # not: the first one already answers all of it.
        if data and self._keepalive == NEVER:
            self._keepalive = now + KEEPALIVE_TIMEOUT
            self._arm(self._keepalive)
        if self._persistent_interval:
            self._persistent = now + self._persistent_interval
            self._arm(self._persistent)

    def handshake_initiated(self, now: float, *, jitter: float) -> None:
        """Call after an initiation left; `jitter` is new and also delays the next NEW_HANDSHAKE."""
        self._jitter = jitter
        self._retransmit = now + REKEY_TIMEOUT + jitter
        self._arm(self._retransmit)

    def handshake_completed(self) -> None:
        """Call when a response arrived, or the first message under keys we made as responder."""
        self._retransmit = NEVER

    def handshake_given_up(self, now: float) -> None:
        """Call when no attempt was answered; what keys there are live on until they are erased."""
        self._keepalive = NEVER
        if self._erase == NEVER:
            self._erase = now + ERASE_AFTER_TIME
            self._arm(self._erase)

    def keys_derived(self, now: float) -> None:
        """Call whenever a keypair was made, in either role."""
        self._erase = now + ERASE_AFTER_TIME
        self._arm(self._erase)

    def probes_sent(self, deadline: float) -> None:
        """Call with when the answers to probes of the path are due; NEVER when none is awaited."""
        self._probe = deadline
        self._arm(deadline)

    def superframe_received(self, report_at: float) -> None:
        """Call after fragments of superframes came, with when to report them; the first of many counts."""
        if self._report == NEVER:
            self._report = report_at
            self._arm(report_at)

    def _arm(self, when: float) -> None:
        if when < self.scheduled:
            self.scheduled = when
            self._agenda.add(when, self)
