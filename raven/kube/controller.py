"""A queue of keys to reconcile: each once however often it was added, never twice at a time, failures later.

Level-triggered: a key says "look at this again", not what happened to it. A key whose reconcile fails comes
back after a pause of its own that grows, and so does one that meets conflicts for long; one that was added
meanwhile comes back at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio
from structlog.typing import FilteringBoundLogger

from raven.kube.errors import KubeError

K = TypeVar("K", bound=Hashable)

WORKERS = 4  # reconciles at a time: enough to hide the API server's latency, few enough for its fair share
PAUSE, PAUSE_MAX = 1.0, 60.0  # seconds before a failed key's next turn: the first, doubled, the longest
CONFLICT_PAUSE = 0.2  # seconds: somebody else wrote; their write is on its way to our cache
CONFLICTS = 5  # in a row that are so explained: a second, longer than a watch that works takes


class Queue(Generic[K]):
    """Keys that wait, in the order they were first added."""

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[None]],
        *,
        log: FilteringBoundLogger,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.problems: dict[K, str] = {}  # of the keys whose last reconcile failed, a sentence
        self.done = 0  # reconciles that ended well
        self._reconcile, self._log, self._jitter = reconcile, log, jitter
        self._ready: dict[K, None] = {}
        self._later: dict[K, float] = {}  # trio.current_time() when it is due
        self._busy: set[K] = set()
        self._pauses: dict[K, float] = {}
        self._conflicts: Counter[K] = Counter()  # in a row
        self._news = trio.Event()

    def add(self, key: K, *, after: float = 0.0) -> None:
        """Has `key` reconciled, at once or some seconds later; the earlier of two times counts."""
        if after > 0:
            due = trio.current_time() + after
            if key not in self._ready:
                self._later[key] = min(due, self._later.get(key, due))
        else:
            self._later.pop(key, None)
            self._ready.setdefault(key)
        self._news.set()

    def is_idle(self) -> bool:
        """Nothing waits and nothing runs, but for what failed and what is for later."""
        return not self._ready and not self._busy

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            key = await self._next()
            self._busy.add(key)
            try:
                await self._reconcile(key)
                self.done += 1
                self._pauses.pop(key, None)
                self._conflicts.pop(key, None)
                if self.problems.pop(key, None):
                    self._log.info("reconciled after failures", key=str(key))
            except KubeError as error:
                self._failed(key, error)
            except Exception:
                # A bug that one object shows may not stop the work for all others.
                self._log.exception("a reconcile ended by a fault of the gateway", key=str(key))
                self._again(key, "a fault of the gateway; its log has the traceback", PAUSE)
            finally:
                self._busy.discard(key)
                self._news.set()

    def _failed(self, key: K, error: KubeError) -> None:
        if error.reason in ("conflict", "exists"):
            self._conflicts[key] += 1
            if self._conflicts[key] <= CONFLICTS:
                self.add(key, after=CONFLICT_PAUSE * (0.5 + self._jitter()))
                return
            # What is in the way never comes to our cache: we may not follow it, or it lacks our label.
        if str(error) != self.problems.get(key):
            self._log.warning("reconcile", key=str(key), why=str(error))
        self._again(key, str(error), error.retry_after or PAUSE)

    def _again(self, key: K, problem: str, first: float) -> None:
        self.problems[key] = problem
        pause = self._pauses.get(key, first)
        self._pauses[key] = min(pause * 2, PAUSE_MAX)
        self.add(key, after=pause * (0.5 + self._jitter()))

    async def _next(self) -> K:
        while True:
            now = trio.current_time()
            for key, due in list(self._later.items()):
                if due <= now:
                    del self._later[key]
                    self._ready.setdefault(key)
            for key in self._ready:
                if key not in self._busy:
                    del self._ready[key]
                    return key
            if self._news.is_set():
                self._news = trio.Event()
            news = self._news
            with trio.move_on_at(min(self._later.values(), default=float("inf"))):
                await news.wait()
