"""Requests to the API server on trio: get, list by pages, watch, create, patch, delete.

Every failure is a KubeError. What can be sent again without harm is, a few times, with growing pauses; more
patience is the caller's: a watch retries for ever, a controller's queue comes back. A request has a deadline,
a watch has none but the silence it bears.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
import msgspec
import trio

from raven import __version__
from raven.errors import StateError
from raven.kube import answers, errors, objects
from raven.kube.access import Access
from raven.kube.answers import Page, WatchEvent
from raven.kube.errors import KubeError
from raven.kube.objects import JSON, Kind, Resource

T = TypeVar("T", bound=Resource)

PAGE = 500  # objects of a list in one answer, as kubectl's: a node with its images has 10 to 20 KB
REQUEST_MAX = 30.0  # seconds for one answer; a page of a busy API server takes one
TRIES = 4  # of a request that can be sent again
PAUSE, PAUSE_MAX = 0.25, 10.0  # seconds between two tries: the first, doubled each time, and the longest
SILENCE_MAX = 150.0  # seconds without a byte of a watch; an API server sends a bookmark every minute
_CONNECTIONS = 16  # one a watch, and some requests at a time


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
        self._extensions = {"sni_hostname": access.tls_name} if access.tls_name else {}
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
        return answers.page(what, kind, body)

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
            unreadable |= page.unreadable
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
                extensions=self._extensions,
            ) as response:
                if response.status_code != 200:
                    body = await answers.whole(response, what)
                    if response.status_code == 401:
                        self._authorization(renewed=True)
                    raise errors.refusal(what, response.status_code, body, response.headers)
                yield answers.events(what, kind, response)
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
        return answers.plurals(what, body)

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
                method, path, params=query, content=body, headers=headers, extensions=self._extensions
            ) as response:
                answer = await answers.whole(response, what)
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
