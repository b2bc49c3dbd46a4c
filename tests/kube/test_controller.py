"""The queue: once each, never twice at a time, failures later."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from raven import log
from raven.kube.controller import PAUSE_MAX, Queue
from raven.kube.errors import KubeError


class Work:
    """Reconciles that take a second, and may be told to fail."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.times: list[float] = []
        self.running: Counter[str] = Counter()
        self.fail: Exception | None = None
        self.queue: Queue[str] = Queue(self.reconcile, log=log.get("test"), jitter=lambda: 0.5)

    async def reconcile(self, key: str) -> None:
        self.running[key] += 1
        assert self.running[key] == 1, "one at a time"
        self.times.append(trio.current_time())
        await trio.sleep(1)
        self.running[key] -= 1
        if self.fail is not None:
            raise self.fail
        self.done[key] += 1


async def test_a_key_added_often_is_done_once(autojump_clock: trio.testing.MockClock) -> None:
    work = Work()
    for _ in range(5):
        work.queue.add("a")
        work.queue.add("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.queue.run)
        await trio.sleep(10)
        assert work.done == {"a": 1, "b": 1}
        assert work.queue.is_idle()
        nursery.cancel_scope.cancel()


async def test_a_key_added_while_it_runs_runs_once_more(autojump_clock: trio.testing.MockClock) -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.queue.run)
        work.queue.add("a")
        await trio.sleep(0.5)
        for _ in range(5):
            work.queue.add("a")
        await trio.sleep(10)
        assert work.done == {"a": 2}
        nursery.cancel_scope.cancel()


async def test_later_means_later_and_the_earlier_time_counts(autojump_clock: trio.testing.MockClock) -> None:
    work = Work()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.queue.run)
        began = trio.current_time()
        work.queue.add("a", after=20)
        work.queue.add("a", after=5)
        work.queue.add("a", after=10)
        await trio.sleep(60)
        assert [moment - began for moment in work.times] == [5]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [KubeError("forbidden", "no"), ValueError("a bug")])
async def test_failures_come_back_ever_later(
    error: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    work = Work()
    work.fail = error
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.queue.run)
        work.queue.add("a")
        await trio.sleep(600)
        gaps = [later - earlier for earlier, later in zip(work.times, work.times[1:], strict=False)]
        assert gaps == sorted(gaps)
        assert gaps[-1] == pytest.approx(PAUSE_MAX + 1)
        assert "a" in work.queue.problems
        work.fail = None
        await trio.sleep(PAUSE_MAX + 10)
        assert work.queue.problems == {}
        nursery.cancel_scope.cancel()


async def test_a_conflict_is_no_problem_and_comes_back_soon(autojump_clock: trio.testing.MockClock) -> None:
    work = Work()
    work.fail = KubeError("conflict", "somebody else wrote")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.queue.run)
        work.queue.add("a")
        await trio.sleep(1.1)
        work.fail = None
        await trio.sleep(3)
        assert work.done == {"a": 1}
        assert work.queue.problems == {}
        nursery.cancel_scope.cancel()


async def test_conflicts_without_end_are_a_problem_and_come_ever_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    work = Work()
    work.fail = KubeError("exists", "somebody else's is there")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.queue.run)
        work.queue.add("a")
        await trio.sleep(600)
        assert len(work.times) < 30
        assert work.queue.problems == {"a": "somebody else's is there"}
        work.fail = None
        await trio.sleep(PAUSE_MAX * 2)
        assert work.queue.problems == {}
        work.fail = KubeError("conflict", "somebody else wrote")
        work.queue.add("a")
        await trio.sleep(3)
        assert work.queue.problems == {}  # counted anew
        nursery.cancel_scope.cancel()


async def test_one_that_fails_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    work = Work()
    original = work.reconcile

    async def reconcile(key: str) -> None:
        if key == "bad":
            raise KubeError("invalid", "no")
        await original(key)

    work.queue = Queue(reconcile, log=log.get("test"), jitter=lambda: 0.5)
    for key in ["bad", *(f"k{number}" for number in range(20))]:
        work.queue.add(key)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.queue.run)
        await trio.sleep(8)
        assert len(work.done) == 20
        nursery.cancel_scope.cancel()
