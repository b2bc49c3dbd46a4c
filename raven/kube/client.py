"""Requests to the API server on trio: get, list by pages, watch, create, patch, delete.

Every failure is a KubeError. What can be sent again without harm is, a few times, with growing pauses; more
patience is the caller's: a watch retries for ever, a controller's queue comes back. A request has a deadline,
a watch has none but the silence it bears.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import httpx
import msgspec
import trio

from raven import __version__
from raven.errors import StateError
from raven.kube import errors, objects
from raven.kube.access import Access
from raven.kube.errors import KubeError
from raven.kube.objects import JSON, Kind, ListMeta, Resource

T = TypeVar("T", bound=Resource)

PAGE = 500  # objects of a list in one answer, as kubectl's: a node with its images has 10 to 20 KB
ANSWER_MAX = 64 << 20  # bytes of one answer; a page of 500 of the largest nodes has 10 MB
LINE_MAX = 4 << 20  # bytes of one watched event; etcd stores at most 1.5 MB an object
REQUEST_MAX = 30.0  # seconds for one answer; a page of a busy API server takes one
TRIES = 4  # of a request that can be sent again
PAUSE, PAUSE_MAX = 0.25, 10.0  # seconds between two tries: the first, doubled each time, and the longest
SILENCE_MAX = 150.0  # seconds without a byte of a watch; an API server sends a bookmark every minute
_CONNECTIONS = 16  # one a watch, and some requests at a time


class Page(NamedTuple, Generic[T]):
    """One answer to a list."""

    items: list[T]
    resource_version: str
    next_page: str  # "" on the last
    unreadable: list[str]  # a sentence for each object that lacks what we need


class WatchEvent(NamedTuple, Generic[T]):
    """One line of a watch; bookmarks and objects that we cannot read have metadata only."""

    type: str  # ADDED, MODIFIED, DELETED, BOOKMARK or UNREADABLE
    object: T


class _RawList(msgspec.Struct):
    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class _RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: objects.Meta


class _Served(msgspec.Struct):
    """What the discovery of one group version says."""

    resources: list[_ServedResource] = []


class _ServedResource(msgspec.Struct):
    name: str


class Client:
    """One API server. `transport` stands in for the network in tests."""

    def __init__(
        self,
        access: Access,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.access = access
        self.requests = 0  # sent, each try counted
        self._jitter = jitter
        self._http = httpx.AsyncClient(
            base_url=access.server,
            verify=access.context if access.context is not None else True,
            transport=transport,
            timeout=httpx.Timeout(REQUEST_MAX, connect=10.0),
            limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=60.0),
            headers={
                "user-agent": f"raven/{__version__}",
                "accept": "application/json",
                # To compress 10,000 Nodes costs the API server more than to send them next door.
                "accept-encoding": "identity",
            },
            trust_env=False,  # a proxy meant for the internet is none for the API server
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def get(self, kind: Kind[T], name: str, *, namespace: str = "") -> T:
        what = f"get {kind.plural} {name}"
        return self._decoded(
            what, kind, await self._send(what, "GET", kind.path(namespace=namespace, name=name))
        )

    async def page(
        self,
        kind: Kind[T],
        *,
        namespace: str = "",
        selector: str = "",
        field_selector: str = "",
        after: str = "",
    ) -> Page[T]:
        """One page of a list, from the most recent state; `after` is the page before's `next_page`.

        KubeError "gone" when that page is too old to go on from.
        """
        what = f"list {kind.plural}"
        query = {
            "limit": str(PAGE),
            **_selectors(selector, field_selector),
            **({"continue": after} if after else {}),
        }
        body = await self._send(what, "GET", kind.path(namespace=namespace), query=query)
        try:
            raw = msgspec.json.decode(body, type=_RawList)
        except msgspec.DecodeError as error:
            raise errors.unreadable(what, error) from error
        items, unreadable = [], []
        for one in raw.items or ():
            try:
                items.append(objects.decode_untrusted(one, kind.type))
            except msgspec.DecodeError as error:
                unreadable.append(f"{kind.kind} {_name_of(one)} cannot be read: {error}")
        return Page(items, raw.metadata.resource_version, raw.metadata.next_page, unreadable)

    async def list(
        self, kind: Kind[T], *, namespace: str = "", selector: str = "", field_selector: str = ""
    ) -> Page[T]:
        """All of them, as one page; those that cannot be read are told in `unreadable`."""
        page = await self.page(kind, namespace=namespace, selector=selector, field_selector=field_selector)
        items, unreadable = page.items, page.unreadable
        while page.next_page:
            page = await self.page(
                kind,
                namespace=namespace,
                selector=selector,
                field_selector=field_selector,
                after=page.next_page,
            )
            items += page.items
            unreadable += page.unreadable
        return Page(items, page.resource_version, "", unreadable)

    @asynccontextmanager
    async def watch(
        self,
        kind: Kind[T],
        *,
        namespace: str = "",
        selector: str = "",
        field_selector: str = "",
        resource_version: str,
        seconds: float,
    ) -> AsyncIterator[AsyncIterator[WatchEvent[T]]]:
        """The changes since `resource_version`, for at most `seconds`.

        KubeError "gone" when there are none from so long ago, "unreachable" when the connection breaks.
        """
        what = f"watch {kind.plural}"
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(int(seconds)),
            **_selectors(selector, field_selector),
        }
        timeout = httpx.Timeout(REQUEST_MAX, connect=10.0, read=SILENCE_MAX)
        try:
            self.requests += 1
            async with self._http.stream(
                "GET",
                kind.path(namespace=namespace),
                params=query,
                headers=self._authorization(),
                timeout=timeout,
            ) as response:
                if response.status_code != 200:
                    body = await _whole(response, what)
                    if response.status_code == 401:
                        self._authorization(renewed=True)
                    raise errors.refusal(what, response.status_code, body, response.headers)
                yield self._events(what, kind, response)
        except httpx.HTTPError as error:
            raise errors.unreachable(what, self.access.server, error) from error

    async def create(self, kind: Kind[T], obj: T) -> T:
        """The object as the API server made it; KubeError "exists"."""
        what = f"create {kind.plural} {obj.metadata.name or obj.metadata.generate_name}"
        path = kind.path(namespace=obj.metadata.namespace)
        return self._decoded(what, kind, await self._send(what, "POST", path, body=kind.encode(obj)))

    async def patch(self, kind: Kind[T], old: T, new: T, *, subresource: str = "") -> T:
        """Changes what differs between the two structs and nothing else; `new` where that is nothing.

        KubeError "conflict" when somebody wrote the object since `old` was read.
        """
        patch = objects.patch_between(old, new)
        return new if not patch else await self.merge(kind, old, patch, subresource=subresource)

    async def merge(self, kind: Kind[T], obj: T, patch: JSON, *, subresource: str = "") -> T:
        """Sends a merge patch as it is."""
        what = f"patch {kind.plural}{'/' + subresource if subresource else ''} {obj.metadata.name}"
        path = kind.path(namespace=obj.metadata.namespace, name=obj.metadata.name, subresource=subresource)
        body = await self._send(
            what, "PATCH", path, body=msgspec.json.encode(patch), content_type="application/merge-patch+json"
        )
        return self._decoded(what, kind, body)

    async def delete(self, kind: Kind[T], obj: T) -> None:
        """Deletes the very object that was read, not one of the same name; gone already is well."""
        what = f"delete {kind.plural} {obj.metadata.name}"
        path = kind.path(namespace=obj.metadata.namespace, name=obj.metadata.name)
        options: JSON = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if obj.metadata.uid:
            options["preconditions"] = {"uid": obj.metadata.uid}
        try:
            await self._send(what, "DELETE", path, body=msgspec.json.encode(options))
        except KubeError as error:
            if error.reason not in ("not-found", "conflict"):
                raise

    async def served(self, group: str, version: str) -> frozenset[str]:
        """The plurals that the API server has in a group version; empty when it has no such version."""
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        what = f"discover {group}/{version}"
        try:
            body = await self._send(what, "GET", path)
        except KubeError as error:
            if error.reason == "not-found":
                return frozenset()
            raise
        try:
            return frozenset(one.name for one in msgspec.json.decode(body, type=_Served).resources)
        except msgspec.DecodeError as error:
            raise errors.unreadable(what, error) from error

    async def choose(self, *kinds: Kind[T]) -> Kind[T] | None:
        """The first of the kinds that the API server has; None for none."""
        for kind in kinds:
            if kind.plural in await self.served(kind.group, kind.version):
                return kind
        return None

    async def _send(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """The body of a good answer. What was certainly not done is tried again, and so are reads."""
        pause, renewed = PAUSE, False
        for attempt in range(1, TRIES + 1):
            try:
                return await self._try(what, method, path, query, body, content_type, renewed=renewed)
            except KubeError as error:
                if attempt == TRIES or not _again(error, method, renewed=renewed):
                    raise
                renewed |= error.reason == "unauthorized"
                wait = error.retry_after if error.retry_after is not None else pause * (0.5 + self._jitter())
                pause *= 2
                await trio.sleep(min(wait, PAUSE_MAX))
        raise AssertionError("the last try returns or raises")

    async def _try(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        *,
        renewed: bool,
    ) -> bytes:
        headers = self._authorization(renewed=renewed)
        if body is not None:
            headers["content-type"] = content_type
        self.requests += 1
        try:
            async with self._http.stream(
                method, path, params=query, content=body, headers=headers
            ) as response:
                answer = await _whole(response, what)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise errors.unreachable(what, self.access.server, error) from error
        if response.is_success:
            return answer
        raise errors.refusal(what, response.status_code, answer, response.headers)

    def _authorization(self, *, renewed: bool = False) -> dict[str, str]:
        if self.access.token is None:
            return {}
        try:
            return {"authorization": f"Bearer {self.access.token.text(renewed=renewed)}"}
        except StateError as error:
            raise KubeError("unauthorized", str(error)) from error

    def _decoded(self, what: str, kind: Kind[T], body: bytes) -> T:
        try:
            return objects.decode_untrusted(body, kind.type)
        except msgspec.DecodeError as error:
            raise errors.unreadable(what, error) from error

    async def _events(
        self, what: str, kind: Kind[T], response: httpx.Response
    ) -> AsyncIterator[WatchEvent[T]]:
        async for line in _lines(response, what):
            try:
                event = msgspec.json.decode(line, type=_RawEvent)
                if event.type == "ERROR":
                    raise errors.watch_refusal(what, bytes(event.object))
                if event.type == "BOOKMARK":
                    mark = msgspec.json.decode(event.object, type=_Bookmark)
                    yield WatchEvent("BOOKMARK", _bare(mark.metadata))
                else:
                    yield _change(kind, event)
            except msgspec.DecodeError as error:
                raise errors.unreadable(what, error) from error


def _bare(metadata: objects.Meta) -> Any:
    """An object that has metadata only, which is all a bookmark has."""
    return _Bookmark(metadata)


def _change(kind: Kind[T], event: _RawEvent) -> WatchEvent[T]:
    """An object we cannot read may not end the watch: it would come again with the next one."""
    try:
        return WatchEvent(event.type, objects.decode_untrusted(event.object, kind.type))
    except msgspec.ValidationError:
        mark = msgspec.json.decode(event.object, type=_Bookmark)
        return WatchEvent(event.type if event.type == "DELETED" else "UNREADABLE", _bare(mark.metadata))


def _again(error: KubeError, method: str, *, renewed: bool) -> bool:
    if error.reason == "throttled":  # refused before it was looked at
        return True
    if error.reason == "unauthorized":  # once, with the token as it now is in its file
        return not renewed
    return method == "GET" and error.reason in ("unreachable", "failed")


def _selectors(selector: str, field_selector: str) -> dict[str, str]:
    return {
        **({"labelSelector": selector} if selector else {}),
        **({"fieldSelector": field_selector} if field_selector else {}),
    }


async def _whole(response: httpx.Response, what: str) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > ANSWER_MAX:
            raise KubeError("unreadable", f"{what}: the answer is longer than {ANSWER_MAX} bytes")
    return b"".join(parts)


async def _lines(response: httpx.Response, what: str) -> AsyncIterator[bytes]:
    """The lines of an endless answer; what follows the last line feed when it ends is no line."""
    rest = bytearray()
    async for part in response.aiter_bytes():
        start = len(rest)
        rest += part
        while (end := rest.find(b"\n", start)) >= 0:
            yield bytes(rest[:end])
            del rest[: end + 1]
            start = 0
        if len(rest) > LINE_MAX:
            raise KubeError("unreadable", f"{what}: an event is longer than {LINE_MAX} bytes")


def _name_of(raw: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=_Bookmark).metadata.key or "without a name"
    except msgspec.DecodeError:
        return "without metadata"
