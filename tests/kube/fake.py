"""A small API server in memory, which plugs into the client in place of the network.

It keeps the rules that the client and the controllers count on: one counter of resource versions, conflicts,
pages, watches with bookmarks that resume or are Gone, status apart from spec. `tests/e2e_kube` asks it and a
real API server the same questions and compares the answers.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs

import httpx
import trio

from raven.kube.access import Access
from raven.kube.client import Client
from raven.kube.objects import Kind, Resource

JSON = dict[str, Any]
Fault = Callable[[httpx.Request], httpx.Response | None]

BOOKMARK = 60.0  # seconds between two bookmarks
_WITH_STATUS = {"gateways", "nodes", "services", "certificatesigningrequests"}
DISCOVERY = {
    "/api/v1": ["nodes", "pods", "services", "configmaps", "secrets", "events"],
    "/apis/coordination.k8s.io/v1": ["leases"],
    "/apis/discovery.k8s.io/v1": ["endpointslices"],
    "/apis/discovery.k8s.io/v1beta1": ["endpointslices"],
    "/apis/certificates.k8s.io/v1": ["certificatesigningrequests"],
    "/apis/raven.openyurt.io/v1beta1": ["gateways"],
    "/apis/crd.projectcalico.org/v1": ["blockaffinities"],
}


class FakeApi(httpx.AsyncBaseTransport):
    """`fault` may answer in its place, or raise; `requests` are what came, as METHOD PATH?QUERY."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[tuple[str, str], JSON] = {}  # (plural, key): object
        # Version, event, plural, object, and what it was before.
        self.history: list[tuple[int, str, str, JSON, JSON | None]] = []
        self.oldest = 0  # versions before this one are Gone
        self.served = {path: list(names) for path, names in DISCOVERY.items()}
        self.fault: Fault | None = None
        self.requests: list[str] = []
        self.user: tuple[str, tuple[str, ...]] = (
            "",
            (),
        )  # name and groups of who asks, as certificate requests say
        self.pages: dict[str, list[JSON]] = {}
        self._wrote = trio.Event()

    def client(self) -> Client:
        return Client(
            Access(server="http://fake", namespace="kube-system"), transport=self, jitter=lambda: 0.5
        )

    def add(self, kind: Kind[Any], obj: Resource | JSON) -> JSON:
        """Creates an object behind everybody's back."""
        body = obj if isinstance(obj, dict) else json.loads(kind.encode(obj))
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        return self._create(kind.plural, body.get("metadata", {}).get("namespace", ""), body)

    def change(self, plural: str, key: str, patch: JSON) -> JSON:
        """Changes an object behind everybody's back."""
        return self._write(plural, _merged(self.objects[plural, key], patch))

    def remove(self, plural: str, key: str) -> None:
        self._record("DELETED", plural, self.objects.pop((plural, key)))

    def all(self, plural: str) -> list[JSON]:
        return [obj for (kind, _), obj in sorted(self.objects.items()) if kind == plural]

    def compact(self) -> None:
        """Whoever watches from before now has to list again."""
        self.oldest, self.history = self.version, []

    def cut(self) -> None:
        """Ends every open watch."""
        self._cuts = getattr(self, "_cuts", 0) + 1
        self._wake()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        self.requests.append(f"{request.method} {request.url.raw_path.decode()}")
        if self.fault is not None and (answer := self.fault(request)) is not None:
            return answer
        path = request.url.path
        query = {key: values[0] for key, values in parse_qs(request.url.query.decode()).items()}
        if path in self.served or (path.count("/") == 3 and path.startswith("/apis/")):
            if not self.served.get(path):
                return status(404, "NotFound", "the server could not find the requested resource")
            names = [{"name": name} for name in self.served[path]]
            return _ok({"kind": "APIResourceList", "resources": names})
        plural, namespace, name, subresource = _parsed(path)
        body = json.loads(await request.aread() or b"{}")
        key = f"{namespace}/{name}" if namespace else name
        if not any(plural in names for names in self.served.values()):
            return status(404, "NotFound", "the server could not find the requested resource")
        match request.method:
            case "GET" if not name and query.get("watch") == "true":
                return self._watch(plural, namespace, query)
            case "GET" if not name:
                return self._list(plural, namespace, query)
            case "POST":
                made = body["metadata"].get("name")
                if made and (plural, f"{namespace}/{made}" if namespace else made) in self.objects:
                    return status(409, "AlreadyExists", f'{plural} "{made}" already exists')
                return _ok(self._create(plural, namespace, body), 201)
        if (found := self.objects.get((plural, key))) is None:
            return status(404, "NotFound", f'{plural} "{name}" not found')
        if request.method == "GET":
            return _ok(found)
        if request.method == "DELETE":
            wanted = body.get("preconditions", {}).get("uid")
            if wanted not in (None, found["metadata"]["uid"]):
                return status(409, "Conflict", "the UID in the precondition does not match")
            self.remove(plural, key)
            return _ok({"kind": "Status", "status": "Success"})
        given = body.get("metadata", {}).get("resourceVersion")
        if given not in (None, found["metadata"]["resourceVersion"]):
            return status(
                409, "Conflict", "the object has been modified; please apply your changes to the latest"
            )
        return _ok(self._patched(plural, found, body, subresource))

    def _patched(self, plural: str, found: JSON, body: JSON, subresource: str) -> JSON:
        new = _merged(found, body)
        if plural in _WITH_STATUS:
            for part in ("spec", "data") if subresource else ("status",):
                new.pop(part, None)
                if part in found:
                    new[part] = found[part]
        return found if new == found else self._write(plural, new)

    def _create(self, plural: str, namespace: str, body: JSON) -> JSON:
        body = copy.deepcopy(body)
        metadata = body.setdefault("metadata", {})
        if "name" not in metadata:
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if namespace:
            metadata["namespace"] = namespace
        metadata.update(uid=str(uuid.uuid4()), creationTimestamp="2026-01-01T00:00:00Z", generation=1)
        if plural == "certificatesigningrequests" and self.user[0]:
            body["spec"].update(username=self.user[0], groups=list(self.user[1]))
        if plural == "services":
            body.setdefault("spec", {}).setdefault("clusterIP", f"10.96.0.{len(self.objects) % 250 + 1}")
        return self._write(plural, body, event="ADDED")

    def _write(self, plural: str, new: JSON, *, event: str = "MODIFIED") -> JSON:
        metadata, key = new["metadata"], _key(new)
        before = self.objects.get((plural, key))
        if before is not None and before.get("spec") != new.get("spec"):
            metadata["generation"] = before["metadata"].get("generation", 1) + 1
        self._record(event, plural, new)
        self.objects[plural, key] = new
        return new

    def _record(self, event: str, plural: str, obj: JSON) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        before = self.objects.get((plural, _key(obj)))
        self.history.append((self.version, event, plural, copy.deepcopy(obj), copy.deepcopy(before)))
        self._wake()

    def _wake(self) -> None:
        self._wrote.set()
        self._wrote = trio.Event()

    def _list(self, plural: str, namespace: str, query: dict[str, str]) -> httpx.Response:
        if token := query.get("continue"):
            if token not in self.pages:
                return status(410, "Expired", "the provided continue parameter is too old")
            rest = self.pages.pop(token)
        else:
            rest = [obj for obj in self.all(plural) if _selected(obj, namespace, query)]
        limit = int(query.get("limit", "0")) or len(rest)
        metadata = {"resourceVersion": str(self.version)}
        if rest[limit:]:
            metadata["continue"] = uuid.uuid4().hex
            self.pages[metadata["continue"]] = rest[limit:]
        return _ok({"kind": "List", "metadata": metadata, "items": rest[:limit]})

    def _watch(self, plural: str, namespace: str, query: dict[str, str]) -> httpx.Response:
        since = int(query["resourceVersion"])
        if since < self.oldest:
            return status(410, "Expired", f"too old resource version: {since} ({self.oldest})")
        return httpx.Response(200, stream=_Watch(self, plural, namespace, query, since))


class _Watch(httpx.AsyncByteStream):
    def __init__(self, api: FakeApi, plural: str, namespace: str, query: dict[str, str], since: int) -> None:
        self.api, self.plural, self.namespace, self.query, self.since = api, plural, namespace, query, since

    async def __aiter__(self) -> AsyncIterator[bytes]:
        api, cuts = self.api, getattr(self.api, "_cuts", 0)
        end = trio.current_time() + float(self.query.get("timeoutSeconds", "1800"))
        mark = trio.current_time() + BOOKMARK
        while trio.current_time() < end and getattr(api, "_cuts", 0) == cuts:
            wrote = api._wrote
            if self.since < api.oldest:
                error = {"code": 410, "reason": "Expired", "message": "too old resource version"}
                yield _line("ERROR", {"kind": "Status", **error})
                return
            for version, event, plural, obj, before in list(api.history):
                if version > self.since and plural == self.plural:
                    if seen := self._seen(event, obj, before):
                        yield _line(seen, obj)
                    self.since = version
            with trio.move_on_at(min(mark, end)):
                await wrote.wait()
            if trio.current_time() >= mark:
                self.since = api.version
                yield _line("BOOKMARK", {"metadata": {"resourceVersion": str(api.version)}})
                mark += BOOKMARK

    def _seen(self, event: str, obj: JSON, before: JSON | None) -> str:
        """What a change is to this watch, whose selector an object may enter and leave; "" for nothing."""
        is_in = _selected(obj, self.namespace, self.query)
        if event != "MODIFIED":
            return event if is_in else ""
        was_in = before is not None and _selected(before, self.namespace, self.query)
        return {(True, True): event, (False, True): "ADDED", (True, False): "DELETED"}.get(
            (was_in, is_in), ""
        )


def status(code: int, reason: str, message: str, **headers: str) -> httpx.Response:
    """A refusal as the API server spells it."""
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return httpx.Response(code, json=body, headers=headers)


def _ok(body: JSON, code: int = 200) -> httpx.Response:
    return httpx.Response(code, content=json.dumps(body).encode())


def _line(event: str, obj: JSON) -> bytes:
    return json.dumps({"type": event, "object": obj}).encode() + b"\n"


def _parsed(path: str) -> tuple[str, str, str, str]:
    """Plural, namespace, name and subresource."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    return parts[0], namespace, *[*parts[1:], "", ""][:2]  # type: ignore[return-value]


def _selected(obj: JSON, namespace: str, query: dict[str, str]) -> bool:
    metadata = obj["metadata"]
    if namespace and metadata.get("namespace") != namespace:
        return False
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        held = metadata.get("labels", {}).get(key)
        if held is None or (equals and held != value):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        field, _, value = term.partition("=")
        held = {"metadata.name": metadata["name"], "spec.signerName": obj.get("spec", {}).get("signerName")}
        if held[field] != value:
            return False
    return True


def _key(obj: JSON) -> str:
    metadata = obj["metadata"]
    return (
        f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else str(metadata["name"])
    )


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = _merged(new.get(key), value)
    return copy.deepcopy(new)
