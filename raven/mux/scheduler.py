"""Whose turn it is to send: control, then interactive streams, then bulk streams and datagrams in turn.

Control frames never come here; the connection sends them first. Within a class everyone gets one quantum in
turn. Strict priority would let one interactive stream that never stops (a file copied through `exec`) starve
the bulk class, so a stream that has sent BURST bytes without once running dry takes its turns with the bulk
streams until it does. What an interactive stream is good at, short answers, is untouched by that.
"""

from typing import Final

from raven.mux.codes import Priority
from raven.mux.events import StreamId

QUANTUM: Final = 16 * 1024  # bytes; one TLS record, 13 ms at 10 Mb/s
BURST: Final = 64 * 1024  # bytes; a screen, a scrape, a page

DATAGRAMS: Final = StreamId(0)  # the datagram queue takes turns like one bulk stream


class Scheduler:
    """Rings of streams that have something to send."""

    def __init__(self) -> None:
        self._rings: tuple[list[StreamId], list[StreamId]] = ([], [])  # by Priority
        self._run: dict[StreamId, int] = {}  # waiting streams and what each has sent since it last ran dry

    def wake(self, stream: StreamId, priority: Priority) -> None:
        """The stream has something to send now; it joins the end of its ring unless it is in one."""
        if stream not in self._run:
            self._run[stream] = 0
            self._rings[priority].append(stream)

    def forget(self, stream: StreamId) -> None:
        """The stream has ended."""
        if self._run.pop(stream, None) is not None:
            for ring in self._rings:
                if stream in ring:
                    ring.remove(stream)

    def __bool__(self) -> bool:
        return bool(self._run)

    def next(self) -> tuple[StreamId, bool]:
        """Whose turn it is, and whether nobody else waits. Call `sent` after."""
        ring = self._rings[Priority.INTERACTIVE] or self._rings[Priority.BULK]
        return ring[0], len(self._run) == 1

    def sent(self, size: int, *, dry: bool) -> int:
        """The stream `next` named has sent `size` bytes; `dry` when it has nothing left.

        Returns what it has sent since it last had nothing.
        """
        interactive, bulk = self._rings
        ring = interactive or bulk
        stream = ring.pop(0)
        if dry:
            return self._run.pop(stream) + size
        self._run[stream] += size
        if ring is interactive and self._run[stream] < BURST:
            interactive.append(stream)
        else:
            bulk.append(stream)
        return self._run[stream]
