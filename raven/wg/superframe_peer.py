"""What a peer needs for superframes beside its keypairs: the sender's choice, incomplete frames, reports.

`peer` hands in its keypairs and does what concerns all messages alike: timers, roaming, transfer counters. It
also sends the reports, inside transport messages (`inband`).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from raven.wg.configuration import SuperframeCipher
from raven.wg.endpoint import Endpoint
from raven.wg.inband import Report
from raven.wg.keypair import RUN_BYTES_MAX, RUN_SEGMENTS_MAX, Keypair
from raven.wg.outbox import Drop, Outbox
from raven.wg.packet import FRAGMENT_TYPE
from raven.wg.reassembly import Partial, Reassembly, ReassemblyBudget
from raven.wg.stepdown import REPORT_DELAY, StepDown
from raven.wg.superframe import (
    FRAGMENT,
    FRAGMENT_LEN,
    FRAGMENTS_MAX,
    FRAME_MAX,
    PRELUDE,
    PRELUDE_LEN,
    FrameOpener,
    frame_size,
)


class OpenedFrame(NamedTuple):
    """A frame that authenticated."""

    room: memoryview  # HEADROOM bytes, prelude, superpacket and padding
    endpoint: Endpoint | None  # where all of it came from; None for several places
    ecn: int
    received: int  # bytes of its datagrams


class PeerSuperframes:
    """One peer's part in superframes; `cipher` None while it is to get none and may send none."""

    __slots__ = ("_outbox", "_reassembly", "_step", "cipher", "rx", "tx", "unreported")

    def __init__(self, outbox: Outbox, budget: ReassemblyBudget) -> None:
        self.cipher: SuperframeCipher | None = None
        self.tx = 0  # frames
        self.rx = 0
        self.unreported = False  # frames came since the last report
        self._outbox = outbox
        self._step = StepDown()
        self._reassembly = Reassembly(budget)

    def configure(self, cipher: SuperframeCipher | None) -> None:
        if cipher is not self.cipher:
            self.cipher = cipher
            self._step = StepDown()
            self._reassembly.clear()
            self._count_lost()

    # Out ----------------------------------------------------------------------------------------------

    def seal(
        self,
        keypair: Keypair,
        buffer: memoryview,
        at: int,
        size: int,
        *,
        gso_size: int,
        stride: int,
        now: float,
    ) -> list[memoryview]:
        """The datagrams of one frame in runs, `stride` bytes each; none when it has to go as plain packets.

        The superpacket has `size` bytes from `at` in `buffer`; the PRELUDE_LEN bytes before it and what is
        behind it are overwritten.
        """
        if self.cipher is None or not self._step.allows(now):
            return []
        sealer = keypair.superframes(self.cipher).sealer
        part = stride - FRAGMENT_LEN
        length = frame_size(size, part)
        start = at - PRELUDE_LEN
        end = at + size
        if (
            not sealer.can_seal()
            or length > FRAME_MAX
            or start + length > len(buffer)
            or length > part * FRAGMENTS_MAX - FRAGMENT_LEN
        ):
            return []
        PRELUDE.pack_into(buffer, start, gso_size, 0)
        buffer[end : start + length] = bytes(start + length - end)
        self._step.sent(now)
        self.tx += 1
        return sealer.seal(
            buffer[start : start + length],
            stride,
            min(RUN_SEGMENTS_MAX, RUN_BYTES_MAX // stride),
            room=self._outbox.sealed,
            scratch=self._outbox.outbound,
        )

    def report_received(self, report: Report, keypairs: Iterable[Keypair], now: float) -> None:
        """Call with an authentic report, and the peer's keypairs: it is about one of them."""
        receiver, reached, opened = report
        keypair = next((pair for pair in keypairs if pair.remote_index == receiver), None)
        if keypair is None or self.cipher is None:
            return
        ours = keypair.superframes(self.cipher)
        sent, lost = reached - ours.reported_reached, reached - ours.reported_reached
        lost -= opened - ours.reported_opened
        if sent < 0 or opened < ours.reported_opened or not opened <= reached <= ours.sealer.sent:
            return  # a report that was overtaken, or nonsense
        ours.reported_reached, ours.reported_opened = reached, opened
        self._step.reported(sent, lost, now, outstanding=reached < ours.sealer.sent)

    # In -----------------------------------------------------------------------------------------------

    def receive(
        self,
        keypair: Keypair,
        datagrams: Sequence[memoryview],
        at: int,
        *,
        endpoint: Endpoint,
        ecn: int,
        now: float,
    ) -> tuple[int, OpenedFrame | None]:
        """Takes the fragment at `at`, and those of its frame behind it: how many, and the frame if opened."""
        if self.cipher is None:
            self._outbox.drop(Drop.SUPERFRAME_OFF)
            return 1, None
        kind, index, counter, tag = FRAGMENT.unpack_from(datagrams[at])
        number, last = kind >> 8 & 0xFF, kind >> 16 & 0xFF
        if kind >> 24 or number > last or last >= FRAGMENTS_MAX:
            self._outbox.drop(Drop.MALFORMED)
            return 1, None
        opener = keypair.superframes(self.cipher).opener
        partial = self._reassembly.find(index, counter)
        if partial is None:
            if not opener.window.is_new(counter):
                self._outbox.drop(Drop.REPLAYED)
                return 1, None
            if not opener.expects(counter, tag):
                self._outbox.drop(Drop.SUPERFRAME_TAG)
                return 1, None
            self.unreported = True
            if number == 0 and (opened := self._open_at_once(opener, datagrams, at, endpoint, ecn)):
                return last + 1, opened
        elif partial.tag != tag:
            self._outbox.drop(Drop.SUPERFRAME_TAG)
            return 1, None
        kept = self._reassembly.add(
            (index, counter),
            number=number,
            last=last,
            tag=tag,
            piece=bytes(datagrams[at][FRAGMENT_LEN:]),
            endpoint=endpoint,
            now=now,
        )
        self._count_lost()
        if kept is None:
            self._outbox.drop(Drop.SUPERFRAME_FRAGMENT)
            return 1, None
        kept.ecn = max(kept.ecn, ecn)  # CE is the highest; two sorts of ECT are no congestion
        kept.received += len(datagrams[at])
        if not kept.whole:
            return 1, None
        return 1, self._open_partial(opener, kept, index, counter)

    def _open_at_once(
        self,
        opener: FrameOpener,
        datagrams: Sequence[memoryview],
        at: int,
        endpoint: Endpoint,
        ecn: int,
    ) -> OpenedFrame | None:
        """The frame whose fragments 0 to last start at `at`, if they do: the AEAD sees whether it is so.

        It is, unless the path mixes datagrams or somebody adds some; then each is looked at alone.
        """
        header = datagrams[at][:FRAGMENT_LEN]
        last = header[2]
        if at + last >= len(datagrams):
            return None
        final = datagrams[at + last][:FRAGMENT_LEN]
        if len(final) < FRAGMENT_LEN or final[1] != last or final[2:] != header[2:]:
            return None
        run = datagrams[at : at + last + 1]
        room = opener.open([datagram[FRAGMENT_LEN:] for datagram in run], bytes(header), self._outbox.inbound)
        if room is None:
            return None
        self.rx += 1
        received = len(run[0]) * last + len(run[-1])
        return OpenedFrame(room, endpoint, ecn, received)

    def _open_partial(
        self, opener: FrameOpener, partial: Partial, index: int, counter: int
    ) -> OpenedFrame | None:
        self._reassembly.remove(index, counter)
        last = len(partial.pieces) - 1
        header = FRAGMENT.pack(FRAGMENT_TYPE | last << 16, index, counter, partial.tag)
        room = opener.open(partial.pieces, header, self._outbox.inbound)
        if room is None:
            self._outbox.drop(Drop.AUTHENTICATION)
            return None
        self.rx += 1
        return OpenedFrame(room, partial.endpoint, partial.ecn, partial.received)

    def reports(self, keypairs: Iterable[Keypair], now: float) -> list[Report]:
        """What to send now that a report is due; `unreported` afterwards if another one will be.

        A frame that is still coming in is left to the next report; one that has been for longer than that
        counts as lost.
        """
        if self.cipher is None:
            self.unreported = False
            return []
        self._reassembly.expire(now)
        self._count_lost()
        self.unreported = bool(self._reassembly)
        reports = []
        for keypair in keypairs:
            opener = keypair.superframes(self.cipher).opener
            pending = self._reassembly.pending(keypair.local_index, now, younger=REPORT_DELAY)
            told = opener.reached - pending, opener.opened
            if told[0] and told != opener.reported:
                opener.reported = told
                reports.append(Report(keypair.local_index, *told))
        return reports

    def _count_lost(self) -> None:
        if self._reassembly.lost:
            self._outbox.drop(Drop.SUPERFRAME_INCOMPLETE, self._reassembly.lost)
            self._reassembly.lost = 0

    def forget_keypair(self, index: int) -> None:
        """Call when the keypair of that index (ours) goes."""
        self._reassembly.forget_keypair(index)
        self._count_lost()
