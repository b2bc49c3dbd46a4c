"""Events: written once, counted after that, dropped when nobody takes them."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from raven import log
from raven.kube.gateways import GATEWAYS, Gateway
from raven.kube.objects import Meta
from raven.kube.recorder import REPEAT, WAITING_MAX, Recorder
from tests.kube.fake import FakeApi, status

SHOP = Gateway(metadata=Meta(name="shop", uid="1-2-3"))
KIND: Any = GATEWAYS


def recorder(api: FakeApi) -> Recorder:
    return Recorder(api.client(), instance="one", wall=trio.current_time, log=log.get("test"))


async def test_the_same_is_counted_now_and_then(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    events = recorder(api)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run)
        for _ in range(100):
            events.record(KIND, SHOP, "Warning", "NoEndpoint", "nobody is ready")
            await trio.sleep(REPEAT / 20)
        (event,) = api.all("events")
        assert event["metadata"]["namespace"] == "default"
        assert event["involvedObject"]["uid"] == "1-2-3"
        assert 4 <= event["count"] <= 6
        assert len(api.requests) < 10
        events.record(KIND, SHOP, "Normal", "Active", "n1")
        await trio.sleep(1)
        assert len(api.all("events")) == 2
        nursery.cancel_scope.cancel()


async def test_one_that_was_written_before_our_start_is_counted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = FakeApi()
    for _ in range(2):
        events = recorder(api)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.run)
            events.record(KIND, SHOP, "Normal", "Active", "n1")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    (event,) = api.all("events")
    assert event["count"] == 2


async def test_one_that_expired_starts_anew(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    events = recorder(api)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run)
        events.record(KIND, SHOP, "Normal", "Active", "n1")
        await trio.sleep(REPEAT + 1)
        (event,) = api.all("events")
        api.remove("events", f"default/{event['metadata']['name']}")
        for _ in range(2):
            events.record(KIND, SHOP, "Normal", "Active", "n1")
            await trio.sleep(1)
        assert len(api.all("events")) == 1
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_written_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    events = recorder(api)
    for number in range(WAITING_MAX + 3):
        events.record(KIND, SHOP, "Normal", "Active", f"n{number}")
    assert events.dropped == 3
    api.fault = lambda request: status(403, "Forbidden", "no events for you")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run)
        await trio.sleep(1)
        assert events.dropped == WAITING_MAX + 3
        nursery.cancel_scope.cancel()
