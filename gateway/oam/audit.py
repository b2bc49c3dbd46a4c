"""Takes audit lines as they come and writes them to the log at once, to the registry in batches.

O&M never waits for a disk: a line that finds the queue full is counted and stands in the log only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import trio

from gateway.oam.audit_repeats import WINDOW, Repeats
from raven import log
from raven.errors import StateError
from raven.oam.audit import OPEN, AuditLine
from raven.registry.interface import AuditRecord, Registry

QUEUE_MAX = 4096  # lines; some seconds of the busiest gateway, 2 MB
BATCH_MAX = 1024  # lines in one transaction
PAUSE = 1.0  # seconds between two batches
_EVENTS = {"CONNECT": "connect", "TRACE": "trace", "TLS": "tls"}  # by method
HEAD_INTERVAL = 3600.0  # seconds between two notes of the chain's head, where lines were written


class RegistryAudit:
    """An `Audit` whose lines end in the registry while `run` runs."""

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # of what is counted for a while
        self._registry = registry
        self._send, self._receive = trio.open_memory_channel[AuditRecord](QUEUE_MAX)
        self._log = log.get("audit")
        self._noted = -math.inf  # trio.current_time() of the last note of the chain's head
        self._repeats = Repeats()
        self.dropped = 0  # lines the registry never saw
        self._told = ""  # why, as it was logged
        self._told_dropped = 0  # of them, when all was well
        self.verdicts: dict[str, int] = {}  # requests that ended, by verdict

    def record(self, line: AuditLine) -> None:
        if line.verdict != OPEN:
            self.verdicts[line.verdict] = self.verdicts.get(line.verdict, 0) + 1
        if not self._repeats.is_told(line, self._clock()):
            self._tell(line)

    def _tell(self, line: AuditLine) -> None:
        target = f"{line.host or line.node}:{line.port}" if line.port else ""
        self._log.info(
            "request",
            id=line.id,
            asker=line.asker,
            method=line.method,
            node=line.node,
            target=target,
            verdict=line.verdict,
            status=line.status,
            sent=line.bytes_to_target,
            received=line.bytes_from_target,
            seconds=round(line.duration, 3),
            **({"detail": line.detail} if line.detail else {}),
        )
        record = AuditRecord(
            time=line.time,
            event=_EVENTS.get(line.method, "http"),
            node=line.node,
            asker=line.asker,
            target=target,
            verdict=line.verdict,
            detail=line.detail,
            request=line.id,
            sent=line.bytes_to_target,
            received=line.bytes_from_target,
            seconds=round(line.duration, 3),
        )
        self.note(record)

    def note(self, record: AuditRecord) -> None:
        """A line that is not of a request; like `record` it returns at once."""
        try:
            self._send.send_nowait(record)
        except trio.WouldBlock:
            self.dropped += 1

    async def run(self) -> None:
        """Until cancelled; what is queued then is still written."""
        try:
            while True:
                first: list[AuditRecord] = []
                with trio.move_on_after(WINDOW):
                    first.append(await self._receive.receive())
                await self._write_batch(first)
                for line in self._repeats.over(self._clock()):
                    self._tell(line)
                if self._receive.statistics().current_buffer_used < BATCH_MAX:
                    await trio.sleep(PAUSE)
        finally:
            for line in self._repeats.over(math.inf):
                self._tell(line)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                while self._receive.statistics().current_buffer_used:
                    await self._write_batch([])

    def _note_head(self) -> None:
        """For whoever collects the log elsewhere: `raven-gateway audit verify --seen` takes it."""
        if trio.current_time() < self._noted + HEAD_INTERVAL:
            return
        try:
            self._log.info("audit head", seen=str(self._registry.audit_head()))
            self._noted = trio.current_time()
        except StateError as error:
            self._log.error("audit not read", why=str(error))

    async def _write_batch(self, batch: list[AuditRecord]) -> None:
        while len(batch) < BATCH_MAX:
            try:
                batch.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                break
        if not batch:
            return
        try:
            await trio.to_thread.run_sync(self._registry.append_audit, batch)
        except StateError as error:
            self.dropped += len(batch)
            if str(error) != self._told:  # a full disk is one happening, not one for each batch
                self._told = str(error)
                self._log.error("audit not written", lines=len(batch), why=self._told)
        else:
            if self._told:
                self._told = ""
                self._log.info("audit written again", lines=self.dropped - self._told_dropped)
            self._told_dropped = self.dropped
            self._note_head()
