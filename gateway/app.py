"""The gateway's nursery: opens what listens, starts every lane, drains when asked, leaves the host as it was.

Only runs what `parts` has put together. What a connection is worth stands in `tunnel_server` and
`oam.connect`; how packets get their routes in `network`; what an operator sees in `report`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

from gateway import report
from gateway.parts import Parts
from gateway.revocation import cut_withdrawn
from gateway.trace import trace
from raven import __version__, log
from raven.config import Address
from raven.errors import StateError
from raven.net.daemon import Stop
from raven.net.http_pages import Page, serve_pages
from raven.net.listeners import address_of, open_listeners
from raven.net.sdnotify import Notifier
from raven.net.status_socket import (
    Answer,
    EventsRequest,
    PingRequest,
    Request,
    SnapshotRequest,
    StreamsRequest,
    TraceRequest,
    open_socket,
    serve_socket,
)
from raven.net.tunnel import TunnelLost
from raven.net.unix_peer import UnixPeer
from raven.pki.token import pin_text

SEEN_INTERVAL = 60.0  # seconds between two writes of who was heard when; what a power cut may lose
GATEWAYS_INTERVAL = 1.0  # seconds between two looks at which gateways there are; it takes 20 µs
SETTLE_MAX = (
    2.0  # seconds for requests that were accepted before the listeners closed, to reach their targets
)
RENEW_INTERVAL = 3600.0  # seconds between two looks at the gateway's own certificate
CA_INTERVAL = 1.0  # seconds between two looks whether the CA was rotated


class Gateway:
    """Runs the parts of one gateway."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._log = log.get("gateway")

    async def serve(self, stop: Stop, notifier: Notifier) -> None:
        """Until `stop`, and then for as long as the drain takes."""
        parts, options = self.parts, self.parts.options
        agents = await self._listen("agents", "agents_listen", options.agents_listen)
        parts.listening |= await parts.oam.listen()
        asked = open_socket(options.socket, group=options.socket_group)
        parts.listening["status"] = str(options.socket)
        parts.network.load(parts.registry.nodes())
        async with trio.open_nursery() as support:
            support.start_soon(serve_socket, asked, options.socket, self._answer)
            if options.metrics_listen is not None:
                metrics = await self._listen("metrics", "metrics_listen", options.metrics_listen)
                support.start_soon(self._serve_metrics, metrics)
            support.start_soon(parts.audit.run)
            support.start_soon(self._guarded, "the packet lane", parts.network.run)
            support.start_soon(self._guarded, "telling agents what has changed", parts.broadcast.run)
            if parts.kubernetes is not None:
                support.start_soon(self._guarded, "following Kubernetes", parts.kubernetes.run)
            support.start_soon(self._watch_gateways)
            if parts.following is not None:
                support.start_soon(parts.following.run)
            if parts.sharing is not None:
                support.start_soon(self._guarded, "following the cluster's registry", parts.sharing.run)
            support.start_soon(self._remember_seen)
            support.start_soon(parts.oam.keep)
            support.start_soon(
                partial(
                    cut_withdrawn,
                    parts.registry,
                    parts.table,
                    parts.network,
                    also=parts.rights_changed,
                )
            )
            support.start_soon(self._renew)
            support.start_soon(self._follow_ca)
            async with trio.open_nursery() as connections:
                accepting = trio.CancelScope()
                connections.start_soon(self._accept, accepting, agents, connections)
                self._log.info(
                    "ready", **parts.listening, advertised=str(parts.advertise), version=__version__
                )
                notifier.ready(f"agents at {parts.advertise}")
                support.start_soon(self._tell_systemd, notifier)
                await stop.wait()
                parts.draining = True
                await self._leave(notifier)
                accepting.cancel()
                await self._drain()
                connections.cancel_scope.cancel()
            support.cancel_scope.cancel()
        self._log.info("stopped")

    def reload(self) -> None:
        """Called at SIGHUP."""
        self.parts.oam.policy.reload()

    async def _listen(self, what: str, key: str, address: Address) -> list[trio.SocketListener]:
        listeners = await open_listeners(key, *address)
        self.parts.listening[what] = str(Address(address.host, address_of(listeners)[1]))
        return listeners

    async def _accept(
        self,
        scope: trio.CancelScope,
        agents: list[trio.SocketListener],
        connections: trio.Nursery,
    ) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.parts.server.serve, agents, connections)
                nursery.start_soon(self.parts.oam.accept, connections)

    async def _leave(self, notifier: Notifier) -> None:
        """Says that this gateway goes, and serves everybody until load balancers have noticed."""
        self.parts.oam.leave()
        if grace := self.parts.options.drain_grace_seconds:
            self._log.info("leaving", seconds=grace)
            notifier.status(f"leaving: everything is served for {grace:g} s more")
            await trio.sleep(grace)

    async def _drain(self) -> None:
        """Requests that have come reach their targets; then every agent is told, and each tunnel lasts until
        its streams are done, at most drain_seconds.
        """
        parts = self.parts
        self._log.info("draining", tunnels=len(parts.table.connected()), seconds=parts.options.drain_seconds)
        with trio.move_on_after(SETTLE_MAX):
            await parts.oam.settle()
        parts.oam.drain()
        with trio.move_on_after(parts.options.drain_seconds):
            async with trio.open_nursery() as nursery:
                for live in parts.table.connected():
                    # Those without streams leave at once, and find the next process one after the other.
                    back = parts.server.pace.seconds(trio.current_time())
                    drain = partial(live.tunnel.drain, back=back)
                    nursery.start_soon(drain, "the gateway is shutting down")

    async def _serve_metrics(self, listeners: list[trio.SocketListener]) -> None:
        from raven import metrics

        render = metrics.renderer("gateway", lambda: report.families(self.parts))
        pages = {
            "/metrics": lambda query: Page(render(), metrics.CONTENT_TYPE),
            "/healthz": lambda query: Page(b"ok\n"),
            "/readyz": self._ready,
        }
        await trio.serve_listeners(partial(serve_pages, pages=pages), listeners)

    def _ready(self, query: str) -> Page:
        return Page(b"draining\n", status=503) if self.parts.draining else Page(b"ok\n")

    async def _guarded(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Runs one lane so that a bug in it leaves the other lanes alone."""
        try:
            await run()
        except Exception:
            self._log.exception("a lane ended by a fault of the gateway", lane=what)
            self.parts.problems.append(f"{what} ended by a fault of the gateway; its log has the traceback")

    async def _watch_gateways(self) -> None:
        """Tells agents of gateways that came or went, whichever process saw to that."""
        while True:
            try:
                self.parts.list_gateways()
            except StateError as error:
                self._log.error("registry", why=str(error))
            await trio.sleep(GATEWAYS_INTERVAL)

    async def _answer(self, request: Request, peer: UnixPeer) -> Answer:
        match request:
            case PingRequest(node=node):
                result = await report.ping(self.parts, node)
                return Answer(error=result) if isinstance(result, str) else Answer(ping=result)
            case TraceRequest():
                way = await trace(self.parts, request, self.parts.oam.identities.at_unix_socket(peer))
                return Answer(error=way) if isinstance(way, str) else Answer(trace=way)
            case EventsRequest():
                return Answer(events=log.recent.lines())
            case StreamsRequest():
                return Answer(streams=report.streams(self.parts))
            case SnapshotRequest():
                return Answer(snapshot=report.snapshot(self.parts))

    async def _remember_seen(self) -> None:
        while True:
            await trio.sleep(SEEN_INTERVAL)
            now = time.time()
            seen = {live.node: now - live.evidence_age() for live in self.parts.table.connected()}
            try:
                await trio.to_thread.run_sync(self.parts.registry.record_seen, seen)
            except StateError as error:
                self._log.error("registry", why=str(error))

    async def _renew(self) -> None:
        while True:
            await trio.sleep(RENEW_INTERVAL)
            try:
                if self.parts.state.renew_if_due(now=time.time()):
                    self.parts.load_certificate()
                    self._log.info("renewed the gateway's certificate")
            except (StateError, OSError) as error:
                self._log.error("the gateway's certificate was not renewed", why=str(error))

    async def _follow_ca(self) -> None:
        """Takes what `ca rotate` and `ca retire` left, and tells the agents that are connected."""
        parts = self.parts
        while True:
            await trio.sleep(CA_INTERVAL)
            try:
                if not parts.state.follow_rotation(now=time.time()):
                    continue
                parts.trust.load()
                parts.adopt_trust()
            except (StateError, OSError) as error:
                if (problem := f"the CA was not changed: {error}") != parts.ca_problem:
                    parts.ca_problem = problem
                    self._log.error("the CA was not changed", why=str(error))
                continue
            parts.ca_problem = ""
            overlap = parts.state.previous is not None
            self._log.info("the CA has changed", pin=pin_text(parts.state.pin), overlap=overlap)
            for live in parts.table.connected():
                with suppress(TunnelLost):
                    await live.send(parts.trust.hello_again(live.node, live.serial, now=time.time()))

    async def _tell_systemd(self, notifier: Notifier) -> None:
        while True:
            connected = len(self.parts.table.connected())
            notifier.status(f"{connected} agents connected; agents dial {self.parts.advertise}")
            await trio.sleep(10)
