"""What the API server answers: pages of a list, lines of a watch, and bodies of a bounded size.

An object that cannot be read does not spoil the others; an answer that is not what the API promises is a
KubeError "unreadable".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Generic, NamedTuple, TypeVar

import httpx
import msgspec

from raven.kube import errors, objects
from raven.kube.errors import KubeError
from raven.kube.objects import Kind, ListMeta, Resource

T = TypeVar("T", bound=Resource)

ANSWER_MAX = 64 << 20  # bytes of one answer; a page of 500 of the largest nodes has 10 MB
LINE_MAX = 4 << 20  # bytes of one watched event; etcd stores at most 1.5 MB an object


class Page(NamedTuple, Generic[T]):
    """One answer to a list."""

    items: list[T]
    resource_version: str
    next_page: str  # "" on the last
    unreadable: dict[str, str]  # for each object that lacks what we need, by its key, a sentence


class WatchEvent(NamedTuple, Generic[T]):
    """One line of a watch; bookmarks and objects that we cannot read have metadata only."""

    type: str  # ADDED, MODIFIED, DELETED, BOOKMARK or UNREADABLE
    object: T
    why: str = ""  # a sentence, where it cannot be read


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


def page(what: str, kind: Kind[T], body: bytes) -> Page[T]:
    """What a list has answered."""
    try:
        raw = msgspec.json.decode(body, type=_RawList)
    except msgspec.DecodeError as error:
        raise errors.unreadable(what, error) from error
    items: list[T] = []
    unreadable: dict[str, str] = {}
    for one in raw.items or ():
        try:
            items.append(objects.decode_untrusted(one, kind.type))
        except msgspec.DecodeError as error:
            name = _name_of(one)
            unreadable[name] = f"{kind.kind} {name} cannot be read: {error}"
    return Page(items, raw.metadata.resource_version, raw.metadata.next_page, unreadable)


def plurals(what: str, body: bytes) -> frozenset[str]:
    """What the discovery of one group version has answered."""
    try:
        return frozenset(one.name for one in msgspec.json.decode(body, type=_Served).resources)
    except msgspec.DecodeError as error:
        raise errors.unreadable(what, error) from error


async def events(what: str, kind: Kind[T], response: httpx.Response) -> AsyncIterator[WatchEvent[T]]:
    """What a watch says, line by line."""
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


async def whole(response: httpx.Response, what: str) -> bytes:
    """The body, of at most ANSWER_MAX bytes."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > ANSWER_MAX:
            raise KubeError("unreadable", f"{what}: the answer is longer than {ANSWER_MAX} bytes")
    return b"".join(parts)


def _bare(metadata: objects.Meta) -> Any:
    """An object that has metadata only, which is all a bookmark has."""
    return _Bookmark(metadata)


def _change(kind: Kind[T], event: _RawEvent) -> WatchEvent[T]:
    """An object we cannot read may not end the watch: it would come again with the next one."""
    try:
        return WatchEvent(event.type, objects.decode_untrusted(event.object, kind.type))
    except msgspec.ValidationError as error:
        mark = msgspec.json.decode(event.object, type=_Bookmark)
        if event.type == "DELETED":
            return WatchEvent("DELETED", _bare(mark.metadata))
        why = f"{kind.kind} {mark.metadata.key} cannot be read: {error}"
        return WatchEvent("UNREADABLE", _bare(mark.metadata), why)


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
