"""A cache that follows the fake API server through what happens to watches, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
import trio.testing

from raven import log
from raven.kube.gateways import GATEWAYS
from raven.kube.objects import Meta
from raven.kube.resources import NODES, Node
from raven.kube.watch import PAUSE_MAX, Cache
from tests.kube.fake import FakeApi, status

Change = tuple[str | None, str | None]


class Followed:
    """A cache of nodes, and what it told of them."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.told: list[Change] = []
        self.cache = Cache(
            api.client(), NODES, log=log.get("test"), changed=self._changed, jitter=lambda: 0.5
        )
        self._news = trio.Event()

    def _changed(self, before: Node | None, after: Node | None) -> None:
        self.told.append((_name(before), _name(after)))
        self._news.set()
        self._news = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(1000):
            while not condition():  # noqa: ASYNC110 -- virtual time
                await trio.sleep(0.1)

    def names(self) -> set[str]:
        return set(self.cache.objects)


def _name(node: Node | None) -> str | None:
    return node.metadata.name if node else None


@asynccontextmanager
async def following(api: FakeApi) -> AsyncIterator[Followed]:
    followed = Followed(api)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(followed.cache.run)
        await followed.cache.synced.wait()
        yield followed
        nursery.cancel_scope.cancel()


def node(name: str) -> Node:
    return Node(metadata=Meta(name=name))


async def test_it_lists_and_follows(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    api.add(NODES, node("a"))
    async with following(api) as followed:
        assert followed.names() == {"a"}
        api.add(NODES, node("b"))
        await followed.until(lambda: followed.names() == {"a", "b"})
        api.change("nodes", "b", {"metadata": {"labels": {"x": "y"}}})
        await followed.until(lambda: followed.cache.objects["b"].metadata.labels == {"x": "y"})
        api.remove("nodes", "a")
        await followed.until(lambda: followed.names() == {"b"})
        assert followed.told == [(None, "a"), (None, "b"), ("b", "b"), ("a", None)]
        assert followed.cache.age() == 0


async def test_a_watch_that_ends_resumes_without_a_list(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    api.add(NODES, node("a"))
    async with following(api) as followed:
        await trio.sleep(30)
        api.cut()
        api.add(NODES, node("b"))
        await followed.until(lambda: followed.names() == {"a", "b"})
        assert followed.cache.relists == 1


async def test_gone_lists_again_and_tells_only_what_changed(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    for name in "abc":
        api.add(NODES, node(name))
    async with following(api) as followed:
        await trio.sleep(30)
        followed.told.clear()
        api.cut()
        api.remove("nodes", "a")
        api.add(NODES, node("d"))
        api.compact()
        await followed.until(lambda: followed.names() == {"b", "c", "d"})
        assert followed.told == [("a", None), (None, "d")]
        assert followed.cache.relists == 2


async def test_bookmarks_keep_a_quiet_watch_from_being_gone(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    api.add(NODES, node("a"))
    async with following(api) as followed:
        for number in range(20):
            api.add(GATEWAYS, {"metadata": {"name": f"g{number}"}})  # moves the counter, not our watch
        await trio.sleep(70)  # a bookmark has come
        api.oldest = api.version
        api.cut()
        api.add(NODES, node("b"))
        await followed.until(lambda: followed.names() == {"a", "b"})
        assert followed.cache.relists == 1


async def test_ten_minutes_without_an_api_server(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    api.add(NODES, node("a"))
    async with following(api) as followed:
        await trio.sleep(30)

        def away(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("connection refused", request=request)

        api.fault = away
        api.cut()
        sent = len(api.requests)
        await trio.sleep(600)
        assert followed.names() == {"a"}  # what was known still is
        assert "out of reach" in followed.cache.problem
        assert 590 < followed.cache.age() < 610
        assert len(api.requests) - sent < 60
        api.fault = None
        api.add(NODES, node("b"))
        await followed.until(lambda: followed.names() == {"a", "b"})
        assert followed.cache.problem == ""
        assert followed.cache.relists == 1


async def test_a_role_taken_away_is_said_and_asked_for_again(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    async with following(api) as followed:
        await trio.sleep(30)
        api.fault = lambda request: status(403, "Forbidden", 'cannot watch resource "nodes"')
        api.cut()
        await trio.sleep(300)
        assert "does the role of this ServiceAccount have the verb?" in followed.cache.problem
        api.fault = None
        api.add(NODES, node("b"))
        await trio.sleep(2 * PAUSE_MAX)
        assert followed.names() == {"b"}


@pytest.mark.parametrize("what", ["closes at once", "is always gone", "breaks"])
async def test_nothing_makes_it_a_hot_loop(what: str, autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()

    def fault(request: httpx.Request) -> httpx.Response | None:
        if b"watch" not in request.url.query:
            return None
        if what == "breaks":
            raise httpx.RemoteProtocolError("cut", request=request)
        gone = what == "is always gone"
        return status(410, "Expired", "too old") if gone else httpx.Response(200, content=b"")

    api.fault = fault
    async with following(api):
        await trio.sleep(3600)
    assert len(api.requests) < 3600 / PAUSE_MAX * 4


async def test_an_object_we_cannot_read_does_not_end_the_watch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = FakeApi()
    api.add(NODES, node("a"))
    async with following(api) as followed:
        await trio.sleep(30)
        api.change("nodes", "a", {"status": {"addresses": 5}})
        api.add(NODES, node("b"))
        await followed.until(lambda: followed.names() == {"b"})
        assert followed.cache.relists == 1


async def test_what_we_wrote_is_seen_at_once_and_never_goes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = FakeApi()
    api.add(NODES, node("a"))
    async with following(api) as followed:
        old = followed.cache.objects["a"]
        new = Node(metadata=Meta(name="a", resource_version="900", labels={"x": "y"}))
        followed.cache.took(new)
        assert followed.cache.objects["a"] == new
        followed.cache.took(old)
        assert followed.cache.objects["a"] == new


async def test_what_cannot_be_read_is_told_until_it_can(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    bad = {"spec": {"endpoints": [{"type": "tunnel"}]}}
    good = {"spec": {"endpoints": [{"type": "tunnel", "nodeName": "n"}]}}
    api.add(GATEWAYS, {"metadata": {"name": "before"}, **bad})
    cache = Cache(api.client(), GATEWAYS, log=log.get("test"), jitter=lambda: 0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.run)
        await cache.synced.wait()
        assert "nodeName" in cache.unreadable["before"]
        api.add(GATEWAYS, {"metadata": {"name": "later"}, **bad})
        api.add(GATEWAYS, {"metadata": {"name": "gone"}, **bad})
        await trio.sleep(1)
        assert cache.unreadable.keys() == {"before", "later", "gone"}
        assert "nodeName" in cache.unreadable["later"]
        api.change("gateways", "before", good)
        api.remove("gateways", "gone")
        await trio.sleep(1)
        assert (set(cache.unreadable), set(cache.objects)) == ({"later"}, {"before"})
        api.change("gateways", "later", good)
        api.compact()
        api.cut()
        await trio.sleep(PAUSE_MAX)
        assert (set(cache.unreadable), set(cache.objects)) == (set(), {"before", "later"})
        nursery.cancel_scope.cancel()
