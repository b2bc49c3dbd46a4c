"""A cache of one kind of object that follows the API server: list by pages, watch, resume, list again.

It keeps what it has while the API server is away, and says how old that is and why. Whatever goes wrong ends
in a pause that grows, with jitter, so that nothing here can become a hot loop: not a watch that closes at
once, not a resource version that is always too old, not a role that was taken away.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

import trio
from structlog.typing import FilteringBoundLogger

from raven.kube.answers import WatchEvent
from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.objects import Kind, Resource

T = TypeVar("T", bound=Resource)
Changed = Callable[[T | None, T | None], None]  # before, after; None: it was not, or is no more

WATCH_MIN, WATCH_MAX = 300.0, 600.0  # seconds a watch lasts; spread, so that all do not come back at once
PAUSE, PAUSE_MAX = 0.5, 30.0  # seconds before the next attempt: the first, doubled each time, and the longest
WORKED = 10.0  # seconds after which a watch that ended has been a good one, whatever it brought


class Cache(Generic[T]):
    """The objects of `kind` as last heard, by key.

    `keep` makes an object smaller before it is kept. `changed` is called for each difference, after it is
    in the cache, and never for an object that came back the same.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind[T],
        *,
        log: FilteringBoundLogger,
        namespace: str = "",
        selector: str = "",
        field_selector: str = "",
        keep: Callable[[T], T] = lambda obj: obj,
        changed: Changed[T] = lambda before, after: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.kind = kind
        self.synced = trio.Event()  # set when the first list is in
        self.problem = ""  # a sentence while the API server does not tell us what changes
        self.unreadable: dict[str, str] = {}  # objects that are there and lack what we need: a sentence each
        self.relists = 0
        self._client = client
        self._where = {"namespace": namespace, "selector": selector, "field_selector": field_selector}
        self._keep, self._changed, self._jitter = keep, changed, jitter
        self._objects: dict[str, T] = {}
        self._heard = float("inf")  # trio.current_time(); set in `run`, since a cache may be made before
        self._resource_version = ""
        self._pause = PAUSE
        self._log = log

    @property
    def objects(self) -> Mapping[str, T]:
        return MappingProxyType(self._objects)

    @property
    def version(self) -> int:
        """Grows with what was heard; the same number means the same to everybody who watches this API."""
        return int(self._resource_version) if self._resource_version.isdigit() else 0

    def get(self, key: str) -> T | None:
        return self._objects.get(key)

    def age(self) -> float:
        """Seconds since the cache was certainly up to date; 0 while the watch is open."""
        return trio.current_time() - self._heard if self.problem or not self.synced.is_set() else 0.0

    def took(self, obj: T) -> None:
        """Called with the answer to our own write, so that the next look at the cache sees it.

        The watch brings it again; an answer that is older than what the watch brought is left alone.
        """
        held = self._objects.get(obj.metadata.key)
        known = held.metadata.resource_version if held is not None else self._resource_version
        if _is_newer(obj.metadata.resource_version, known):
            self._put(obj)

    async def run(self) -> None:
        """Until cancelled. Whatever the API server does, this does not raise."""
        self._heard = trio.current_time()
        while True:
            began = trio.current_time()
            try:
                if not self._resource_version:
                    await self._list()
                await self._watch()
                self._well()
            except KubeError as error:
                self._failed(error)
            if trio.current_time() - began >= WORKED:
                self._pause = PAUSE
            await trio.sleep(self._pause * (0.5 + self._jitter()))
            self._pause = min(self._pause * 2, PAUSE_MAX)

    async def _list(self) -> None:
        page = await self._client.list(self.kind, **self._where)
        for key, sentence in page.unreadable.items():
            if self.unreadable.get(key) != sentence:
                self._log.warning("left out", why=sentence)
        self.unreadable = page.unreadable
        self._replace(page.items)
        self._resource_version = page.resource_version
        self.relists += 1
        self._well()
        self.synced.set()

    async def _watch(self) -> None:
        seconds = WATCH_MIN + (WATCH_MAX - WATCH_MIN) * self._jitter()
        version = self._resource_version
        async with self._client.watch(
            self.kind, **self._where, resource_version=version, seconds=seconds
        ) as events:
            self._well()
            async for event in events:
                self._take(event)
                self._well()

    def _take(self, event: WatchEvent[T]) -> None:
        metadata = event.object.metadata
        if event.type != "BOOKMARK":
            self.unreadable.pop(metadata.key, None)
        match event.type:
            case "ADDED" | "MODIFIED":
                self._put(event.object)
            case "DELETED":
                self._remove(metadata.key)
            case "UNREADABLE":
                self._log.warning("left out", why=event.why)
                self.unreadable[metadata.key] = event.why
                self._remove(metadata.key)
        self._resource_version = metadata.resource_version or self._resource_version

    def _replace(self, items: Iterable[T]) -> None:
        new = {obj.metadata.key: obj for obj in items}
        for key in self._objects.keys() - new.keys():
            self._remove(key)
        for obj in new.values():
            self._put(obj)

    def _put(self, obj: T) -> None:
        kept = self._keep(obj)
        before = self._objects.get(obj.metadata.key)
        self._objects[obj.metadata.key] = kept
        if before != kept:
            self._changed(before, kept)

    def _remove(self, key: str) -> None:
        if (before := self._objects.pop(key, None)) is not None:
            self._changed(before, None)

    def _well(self) -> None:
        if self.problem:
            self._log.info("the API server answers again", watch=self.kind.plural)
        self.problem = ""
        self._heard = trio.current_time()

    def _failed(self, error: KubeError) -> None:
        if error.reason == "gone":  # too long away: everything may have changed
            self._resource_version = ""
        if not self.problem:
            self._heard = trio.current_time()
        # Whoever reads the log at night wants the first line and each new reason, not one every 30 s.
        if error.reason != "gone" and str(error) != self.problem:
            self._log.warning("watch", kind=self.kind.plural, why=str(error))
        if error.reason != "gone":
            self.problem = str(error)


def _is_newer(one: str, other: str) -> bool:
    """Whether a resource version was given later. Opaque by contract; numbers of one counter in etcd."""
    return not (one.isdigit() and other.isdigit()) or int(one) > int(other)
