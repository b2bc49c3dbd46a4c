"""Who leads, in virtual time: candidates, a leader that dies, one that is cut off, clocks that jump."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
import trio
import trio.testing

from raven import log
from raven.kube.lease import LEASE, RENEW_WITHIN, RETRY, Elector
from tests.kube.fake import FakeApi


class Candidate:
    """An elector whose network can be cut, and a record of when it led."""

    def __init__(
        self,
        api: FakeApi,
        name: str,
        *,
        wall: Callable[[], float] = trio.current_time,
        gone: set[str] | None = None,
    ) -> None:
        self.cut = False
        self.leads = False
        self.terms = 0
        self.scope = trio.CancelScope()
        client = api.client()
        transport = client._http._transport

        class Wire(httpx.AsyncBaseTransport):
            async def handle_async_request(_, request: httpx.Request) -> httpx.Response:
                if self.cut:
                    raise httpx.ConnectError("cut", request=request)
                return await transport.handle_async_request(request)

        client._http._transport = Wire()
        self.elector = Elector(
            client,
            namespace="kube-system",
            name="raven",
            identity=name,
            wall=wall,
            log=log.get("test"),
            jitter=lambda: 0.5,
            is_gone=(gone or set()).__contains__,
        )

    async def run(self) -> None:
        with self.scope:
            await self.elector.run(self._lead)

    async def _lead(self) -> None:
        self.leads = True
        self.terms += 1
        try:
            await trio.sleep_forever()
        finally:
            self.leads = False


async def until(condition: Callable[[], bool], within: float) -> float:
    """Seconds until it was true."""
    began = trio.current_time()
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110 -- virtual time
            await trio.sleep(0.05)
    return trio.current_time() - began


async def test_one_of_three_leads(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    candidates = [Candidate(api, name) for name in "abc"]
    async with trio.open_nursery() as nursery:
        for one in candidates:
            nursery.start_soon(one.run)
        for _ in range(200):
            await trio.sleep(1)
            assert sum(one.leads for one in candidates) == 1
        assert sum(one.terms for one in candidates) == 1
        nursery.cancel_scope.cancel()


async def test_a_leader_that_leaves_gives_the_lease_back(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    a, b = Candidate(api, "a"), Candidate(api, "b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.run)
        await until(lambda: a.leads, 1)
        nursery.start_soon(b.run)
        await trio.sleep(30)
        a.scope.cancel()
        assert await until(lambda: b.leads, 5) < 2 * RETRY
        (lease,) = api.all("leases")
        assert lease["spec"]["holderIdentity"] == "b"
        assert lease["spec"]["leaseTransitions"] == 0  # taken from nobody
        nursery.cancel_scope.cancel()


async def test_a_leader_that_is_cut_off_stops_before_another_starts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = FakeApi()
    a, b = Candidate(api, "a"), Candidate(api, "b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.run)
        await until(lambda: a.leads, 1)
        nursery.start_soon(b.run)
        await trio.sleep(30)
        a.cut = True
        assert await until(lambda: not a.leads, 60) <= RENEW_WITHIN + 0.1
        assert not b.leads
        assert LEASE - RENEW_WITHIN - RETRY <= await until(lambda: b.leads, 60) <= LEASE + 2 * RETRY
        a.cut = False
        await trio.sleep(60)
        assert (a.leads, b.leads) == (False, True)
        nursery.cancel_scope.cancel()


async def test_a_leader_that_is_gone_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    gone: set[str] = {"nobody"}
    a, b = Candidate(api, "a"), Candidate(api, "b", gone=gone)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.run)
        await until(lambda: a.leads, 1)
        nursery.start_soon(b.run)
        await trio.sleep(30)
        assert a.leads
        a.cut = True
        gone.add("a")
        assert await until(lambda: b.leads, 60) < 2 * RETRY
        a.cut = False  # it was there after all
        assert await until(lambda: not a.leads, 60) <= 2 * RETRY
        await trio.sleep(60)
        assert (a.leads, b.leads) == (False, True)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
async def test_a_clock_that_jumps_elects_nobody(jump: float, autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    a, b = Candidate(api, "a"), Candidate(api, "b", wall=lambda: 1e9 + jump + trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.run)
        await until(lambda: a.leads, 1)
        nursery.start_soon(b.run)
        await trio.sleep(300)
        assert (a.leads, b.leads, a.terms) == (True, False, 1)
        nursery.cancel_scope.cancel()


async def test_whoever_finds_the_lease_taken_stops(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    a = Candidate(api, "a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.run)
        await until(lambda: a.leads, 1)
        api.change("leases", "kube-system/raven", {"spec": {"holderIdentity": "thief"}})
        assert await until(lambda: not a.leads, 10) <= 2 * RETRY
        await until(lambda: a.leads, 60)  # the thief never renews
        nursery.cancel_scope.cancel()
