"""The gateway's HTTP proxy: reads a request, finds the node it is for, and joins the asker to a stream there.

`raven.oam` understands the bytes, the agent judges the target; here it is decided only who waits for what and
how long. A request that cannot be served is answered with a reason, and each one leaves an audit line. Never
reads a body: after CONNECT or an upgrade `splice` carries the bytes, otherwise `Exchange` counts them.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import trio

from gateway.oam_relay import Relay, tunnel_lost
from gateway.tunnels import AgentTunnel, Offline, Tunnels
from raven import log
from raven.control.messages import OpenRequest
from raven.errors import StateError
from raven.mux.codes import Priority, RefusalCode
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
from raven.net.splice import splice
from raven.net.tcp import watch_peer
from raven.net.tunnel import StreamRefused, TunnelLost
from raven.oam import discovery
from raven.oam.audit import Audit, AuditLine
from raven.oam.exchange import Exchange
from raven.oam.heads import HeadBuffer, RequestHead
from raven.oam.refusal import Refusal, offline_node, unknown_node
from raven.oam.target import Route, Target, at_address, find_route

OPEN_TIMEOUT: Final = 15.0  # seconds; longer than the agent gives itself, so that its sentence comes first
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"

_REASONS: Final = {
    RefusalCode.FORBIDDEN: "not-allowed",
    RefusalCode.UNREACHABLE: "unreachable",
    RefusalCode.TIMEOUT: "dial-timeout",
    RefusalCode.BUSY: "busy",
    RefusalCode.GOING_AWAY: "offline-node",
}


class _Then(Enum):
    """What becomes of the asker's connection after a request."""

    NEXT = 1
    """Another request may come."""
    LINGER = 2
    """The asker may still be sending, and shall read our answer first."""
    CLOSE = 3
    """Nobody waits for anything."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Record:
    """What the audit line of one request will say, as it becomes known."""

    began: float  # trio.current_time()
    time: float  # Unix seconds
    id: str
    asker: str
    method: str = ""
    target: Target | None = None
    verdict: str = "allowed"
    status: int = 0
    to_target: int = 0
    from_target: int = 0
    detail: str = ""

    def line(self) -> AuditLine:
        target = self.target or Target("", "", 0)
        return AuditLine(
            id=self.id,
            time=self.time,
            asker=self.asker,
            method=self.method,
            node=target.node,
            host=target.host,
            port=target.port,
            verdict=self.verdict,
            status=self.status,
            bytes_to_target=self.to_target,
            bytes_from_target=self.from_target,
            duration=trio.current_time() - self.began,
            detail=self.detail,
        )


class HttpProxy:
    """The proxy on one port or several; `serve` runs once for each connection."""

    def __init__(self, *, tunnels: Tunnels, audit: Audit, wall: Callable[[], float] = time.time) -> None:
        self._tunnels = tunnels
        self._audit = audit
        self._wall = wall
        self._log = log.get("proxy")
        self._idle: set[trio.CancelScope] = set()
        self._pages: Pages = {"/healthz": self._health, "/sd": self._discover}
        self.draining = False
        self.connections = 0  # open now
        self.refused: Counter[str] = Counter()  # requests that the proxy answered itself, by reason
        self.broken: Counter[str] = Counter()  # requests that broke off after they were allowed, by reason

    def drain(self) -> None:
        """From now on idle connections close, and requests are turned away; those under way go on."""
        self.draining = True
        for scope in self._idle:
            scope.cancel()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answers the requests of one connection until its end; closes it. Nothing an asker does raises."""
        buffer = HeadBuffer(strict=True)
        self.connections += 1
        try:
            asker = _prepare(stream)
            then = await self._serve_one(stream, buffer, asker, first=True)
            while then is _Then.NEXT:
                then = await self._serve_one(stream, buffer, asker, first=False)
            if then is _Then.LINGER:
                await linger(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken["asker-left"] += 1
        except trio.TooSlowError:
            self.broken["asker-stuck"] += 1
        except Exception:
            # A bug met by one request must not take the gateway with it.
            self.broken["fault"] += 1
            self._log.exception("a request ended by a fault of the gateway")
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_one(
        self, stream: trio.SocketStream, buffer: HeadBuffer, asker: str, *, first: bool
    ) -> _Then:
        """One request from its first byte to its end."""
        record = _Record(began=trio.current_time(), time=self._wall(), id=secrets.token_hex(6), asker=asker)
        request: RequestHead | None = None
        try:
            request = await self._next_request(stream, buffer, first=first)
            if request is None:
                return _Then.CLOSE
            record.began, record.time, record.method = trio.current_time(), self._wall(), request.method
            return await self._dispatch(stream, buffer, request, record)
        except Refusal as refusal:
            record.verdict, record.status, record.detail = refusal.reason, refusal.status, str(refusal)
            self.refused[refusal.reason] += 1
            # A body that nobody will read stands between this request and the next.
            keep = request is not None and request.persistent and request.body == 0 and not self.draining
            keep = keep and record.method != "CONNECT"
            await send_refusal(stream, request, refusal, keep_alive=keep)
            return _Then.NEXT if keep else _Then.LINGER
        finally:
            if record.target is not None or record.verdict != "allowed":
                self._audit.record(record.line())

    async def _next_request(
        self, stream: trio.SocketStream, buffer: HeadBuffer, *, first: bool
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
        self, stream: trio.SocketStream, buffer: HeadBuffer, request: RequestHead, record: _Record
    ) -> _Then:
        raven_node = [value.decode("latin-1") for value in request.values(b"raven-node")]
        route = find_route(request.method, request.target, raven_node, self._is_node)
        if route is None:
            page = find_page(request, self._pages)
            keep = request.persistent and request.body == 0 and not self.draining
            await send_page(stream, request, page, keep_alive=keep)
            return _Then.NEXT if keep else _Then.LINGER
        route = self._located(route)
        record.target = route.target
        if self.draining:
            raise Refusal("draining", "this gateway is shutting down; ask another one, or again in a moment")
        upstream = await self._open(route.target, record)
        if request.method == "CONNECT":
            await self._connect(stream, buffer, upstream, record)
            return _Then.CLOSE
        relay = Relay(stream, buffer, upstream, Exchange(request, route))
        try:
            await relay.run()
        finally:
            record.status = relay.exchange.status
            record.to_target, record.from_target = relay.bytes_to_target, relay.bytes_from_target
            record.detail = relay.broken
        if relay.broken:
            self.broken[relay.broken] += 1
        if relay.broken or relay.exchange.switched:
            return _Then.CLOSE
        return _Then.NEXT if relay.keep_alive and not self.draining else _Then.LINGER

    async def _open(self, target: Target, record: _Record) -> trio.abc.HalfCloseableStream:
        """A stream to the target; Refusal with the sentence of whoever knows best why there is none."""
        tunnel = self._lookup(target.node)
        if tunnel is None:
            raise unknown_node(target.node, target.port)
        if isinstance(tunnel, Offline):
            raise offline_node(target.node, tunnel.since, self._wall())
        opening = OpenRequest(host=target.host, port=target.port, asker=record.asker, request=record.id)
        try:
            with trio.fail_after(OPEN_TIMEOUT):
                return await tunnel.open_stream(opening, Priority.INTERACTIVE)
        except StreamRefused as error:
            reason = _REASONS.get(error.code, "agent-error")
            raise Refusal(reason, f"node {target.node}: {error.message}") from error
        except TunnelLost as error:
            raise tunnel_lost(error) from error
        except trio.TooSlowError as error:
            raise Refusal(
                "dial-timeout",
                f"node {target.node} did not connect to the target within {OPEN_TIMEOUT:.0f} s; "
                "its uplink may be slow or just breaking, so ask again",
            ) from error

    async def _connect(
        self,
        stream: trio.SocketStream,
        buffer: HeadBuffer,
        upstream: trio.abc.HalfCloseableStream,
        record: _Record,
    ) -> None:
        """Joins both ends of a CONNECT until both directions have ended."""
        record.status = 200
        try:
            with trio.fail_after(SEND_TIMEOUT):
                await stream.send_all(ESTABLISHED)
            early = buffer.take()  # what a hasty asker sent behind its head
            if early:
                with suppress(trio.BrokenResourceError):  # splice will see it too, and find out more
                    await upstream.send_all(early)
        except BaseException:
            await trio.aclose_forcefully(upstream)
            raise
        result = await splice(stream, upstream)
        record.to_target, record.from_target = len(early) + result.bytes_a_to_b, result.bytes_b_to_a
        record.detail = result.aborted
        if result.aborted:
            self.broken["aborted"] += 1

    def _located(self, route: Route) -> Route:
        """The route, by the node's name where it was asked for by its address."""
        if self._is_node(route.target.node):
            return route
        return replace(route, target=at_address(route.target, self._tunnels.nodes_at))

    def _is_node(self, name: str) -> bool:
        return self._lookup(name) is not None

    def _lookup(self, name: str) -> AgentTunnel | Offline | None:
        try:
            return self._tunnels.lookup(name)
        except StateError as error:
            self._log.error("registry", why=str(error))
            raise Refusal(
                "registry",
                f"the gateway cannot look up the node {name}; its log says what its registry lacks",
            ) from error

    def _health(self, query: str) -> Page:
        return Page(b"draining\n", status=503) if self.draining else Page(b"ok\n")

    def _discover(self, query: str) -> Page:
        body = discovery.discover(self._tunnels.connected(), discovery.requested_ports(query))
        return Page(body, content_type=discovery.CONTENT_TYPE)


def _prepare(stream: trio.SocketStream) -> str:
    """Lets the kernel find askers that vanished without a word, and says who is asking."""
    try:
        watch_peer(stream)
        host, port = stream.socket.getpeername()[:2]
    except OSError:  # gone already
        return "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
