"""The gateway's HTTP proxy: reads a request, finds the node it is for, and joins the asker to a stream there.

`raven.oam` understands the bytes, `requests` judges and opens, the agent has the last word on the target;
here it is decided only who waits for what and how long. A request that cannot be served is answered with a
reason. Never reads a body: after CONNECT or an upgrade `splice` carries the bytes, otherwise `Exchange`
counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final, Protocol

import trio

from gateway.oam.arrivals import Arrivals
from gateway.oam.relay import Relay
from gateway.oam.requests import Request, Requests
from raven import log
from raven.net import tcp
from raven.net.http_pages import (
    SEND_TIMEOUT,
    Page,
    Pages,
    find_page,
    linger,
    next_request,
    send_page,
    send_refusal,
)
from raven.net.splice import Copied, abort, splice
from raven.oam import discovery
from raven.oam.asker import Asker
from raven.oam.exchange import Exchange
from raven.oam.heads import HeadBuffer, RequestHead
from raven.oam.refusal import Refusal
from raven.oam.target import Route, find_route

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Identify(Protocol):
    """The asker, with what the head's credentials add; Refusal "bad-credentials"."""

    def __call__(self, request: RequestHead, asker: Asker, *, for_us: bool) -> Asker: ...


def _as_it_comes(request: RequestHead, asker: Asker, *, for_us: bool) -> Asker:
    return asker


class _Then(Enum):
    """What becomes of the asker's connection after a request."""

    NEXT = 1
    """Another request may come."""
    LINGER = 2
    """The asker may still be sending, and shall read our answer first."""
    CLOSE = 3
    """Nobody waits for anything."""


class HttpProxy:
    """The proxy on one port or several; `serve` runs once for each connection."""

    def __init__(self, *, requests: Requests, identify: Identify = _as_it_comes, name: str = "") -> None:
        """`name` is the gateway's own: a Host header with it asks for the gateway's pages."""
        self._requests = requests
        self._identify = identify
        self._name = name
        self._log = log.get("proxy")
        self._idle: set[trio.CancelScope] = set()
        self.arrivals = Arrivals()
        self.leaving = False
        self.draining = False
        self.connections = 0  # open now

    def leave(self) -> None:
        """From now on /healthz says so and no connection is kept for another request; all are served."""
        self.leaving = True

    def drain(self) -> None:
        """From now on idle connections close, and requests are turned away; those under way go on."""
        self.leaving = self.draining = True
        for scope in self._idle:
            scope.cancel()

    async def serve(
        self,
        stream: trio.abc.HalfCloseableStream,
        asker: Asker,
        *,
        greeted: Callable[[], None] = lambda: None,
    ) -> None:
        """Answers the requests of one connection until its end; closes it. Nothing an asker does raises.

        `greeted` is called when the first head was there.
        """
        buffer = HeadBuffer(strict=True)
        self.connections += 1
        self.arrivals.came(stream)
        try:
            then = await self._serve_one(stream, buffer, asker, greeted, first=True)
            while then is _Then.NEXT:
                then = await self._serve_one(stream, buffer, asker, greeted, first=False)
            if then is _Then.LINGER:
                await linger(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._requests.broken["asker-left"] += 1
        except trio.TooSlowError:
            self._requests.broken["asker-stuck"] += 1
        except Exception:
            # A bug met by one request must not take the gateway with it.
            self._requests.broken["fault"] += 1
            self._log.exception("a request ended by a fault of the gateway")
        finally:
            self.connections -= 1
            self.arrivals.arrived(stream)
            await tcp.close(stream)

    async def _serve_one(
        self,
        stream: trio.abc.HalfCloseableStream,
        buffer: HeadBuffer,
        asker: Asker,
        greeted: Callable[[], None],
        *,
        first: bool,
    ) -> _Then:
        """One request from its first byte to its end."""
        record = self._requests.new(asker)
        request: RequestHead | None = None
        try:
            request = await self._next_request(stream, buffer, first=first)
            if request is None:
                return _Then.CLOSE
            greeted()
            record = self._requests.new(asker, request.method)
            route = self._find_route(stream, request, record)
            record.asker = self._identify(request, asker, for_us=route is None)
            return await self._dispatch(stream, buffer, request, route, record)
        except Refusal as refusal:
            record.refused(refusal)
            self._requests.refused[refusal.reason] += 1
            # A body that nobody will read stands between this request and the next.
            keep = request is not None and request.persistent and request.body == 0 and not self.leaving
            keep = keep and record.method != "CONNECT"
            await send_refusal(stream, request, refusal, keep_alive=keep)
            return _Then.NEXT if keep else _Then.LINGER
        finally:
            self._requests.ended(record)

    async def _next_request(
        self, stream: trio.abc.HalfCloseableStream, buffer: HeadBuffer, *, first: bool
    ) -> RequestHead | None:
        idle = trio.CancelScope()
        if self.draining:
            idle.cancel()
        self._idle.add(idle)
        try:
            return await next_request(stream, buffer, first=first, idle=idle)
        finally:
            self._idle.discard(idle)

    async def _dispatch(
        self,
        stream: trio.abc.HalfCloseableStream,
        buffer: HeadBuffer,
        request: RequestHead,
        route: Route | None,
        record: Request,
    ) -> _Then:
        if route is None:
            page = find_page(request, self._pages(record.asker))
            keep = request.persistent and request.body == 0 and not self.leaving
            await send_page(stream, request, page, keep_alive=keep)
            return _Then.NEXT if keep else _Then.LINGER
        self._requests.locate(record, route.target)
        if self.draining:
            raise Refusal("draining", "this gateway is shutting down; ask another one, or again in a moment")
        then = _Then.CLOSE
        with self._requests.under_way(record):
            then = await self._carry(stream, buffer, request, route, record)
        if record.scope.cancelled_caught:
            abort(stream, "withdrawn")  # nobody shall take what came for the whole
        return then

    async def _carry(
        self,
        stream: trio.abc.HalfCloseableStream,
        buffer: HeadBuffer,
        request: RequestHead,
        route: Route,
        record: Request,
    ) -> _Then:
        """Between the asker and the target until the request has ended."""
        upstream = await self._open(record)
        self.arrivals.arrived(stream)
        if request.method == "CONNECT":
            await self._connect(stream, buffer, upstream, record)
            return _Then.CLOSE
        relay = Relay(stream, buffer, upstream, Exchange(request, route))
        try:
            await relay.run()
        finally:
            record.status = relay.exchange.status
            record.to_target, record.from_target = relay.bytes_to_target, relay.bytes_from_target
            record.detail = record.detail or relay.broken
        if relay.broken:
            self._requests.broken[relay.broken] += 1
        if relay.broken or relay.exchange.switched:
            return _Then.CLOSE
        return _Then.NEXT if relay.keep_alive and not self.leaving else _Then.LINGER

    async def _connect(
        self,
        stream: trio.abc.HalfCloseableStream,
        buffer: HeadBuffer,
        upstream: trio.abc.HalfCloseableStream,
        record: Request,
    ) -> None:
        """Joins both ends of a CONNECT until both directions have ended."""
        record.status = 200
        try:
            sent = tcp.send_nowait(stream, ESTABLISHED)
            if sent < len(ESTABLISHED):
                with trio.fail_after(SEND_TIMEOUT):
                    await stream.send_all(ESTABLISHED[sent:])
            early = buffer.take()  # what a hasty asker sent behind its head
            if early:
                with suppress(trio.BrokenResourceError):  # splice will see it too, and find out more
                    await upstream.send_all(early)
        except BaseException:
            await trio.aclose_forcefully(upstream)
            raise
        counted = Copied()
        try:
            result = await splice(stream, upstream, counted)
        finally:
            record.to_target, record.from_target = len(early) + counted.a_to_b, counted.b_to_a
        record.detail = result.aborted
        if result.aborted:
            self._requests.broken["aborted"] += 1

    def _find_route(
        self, stream: trio.abc.HalfCloseableStream, request: RequestHead, record: Request
    ) -> Route | None:
        """Where a request goes, None for the gateway's own pages; Refusal."""
        raven_node = [value.decode("latin-1") for value in request.values(b"raven-node")]
        hosts = [value.decode("latin-1") for value in request.values(b"host")]
        host = hosts[0] if len(hosts) == 1 and hosts[0].partition(":")[0].lower() != self._name else ""
        return find_route(request.method, request.target, raven_node, self._requests.is_node, host=host)

    async def _open(self, record: Request) -> trio.abc.HalfCloseableStream:
        """A stream to the target of the request; Refusal."""
        return await self._requests.open(record)

    def _pages(self, asker: Asker) -> Pages:
        """The gateway's own pages; what they tell of nodes is for those who may reach something there."""

        def discover(query: str) -> Page:
            body = discovery.discover(self._requests.seen_by(asker), discovery.requested_ports(query))
            return Page(body, content_type=discovery.CONTENT_TYPE)

        return {"/healthz": self._health, "/sd": discover}

    def _health(self, query: str) -> Page:
        return Page(b"draining\n", status=503) if self.leaving else Page(b"ok\n")
