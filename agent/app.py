"""The agent's nursery: a tunnel to every gateway, the packet lane beside them, status, and the way out.

Only runs what `parts` has put together. How a tunnel is kept stands in `uplink`, what streams may reach in
`dialer`, how packets get their routes in `network`, what an operator sees in `report`. Imports neither
cryptography nor numpy: a small device pays for every module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from agent import report
from agent.parts import Parts
from raven import __version__, log
from raven.config import Address
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
from raven.net.unix_peer import UnixPeer


class Agent:
    """Runs the parts of one agent."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._log = log.get("agent")

    async def serve(self, stop: Stop, notifier: Notifier) -> None:
        """Until `stop`, and then for as long as the drain takes."""
        parts, options = self.parts, self.parts.options
        asked = open_socket(options.socket, group=options.socket_group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_socket, asked, options.socket, self._answer)
            if options.metrics_listen is not None:
                metrics = await open_listeners("metrics_listen", *options.metrics_listen)
                host, port = address_of(metrics)
                self._log.info("metrics", address=str(Address(host, port)))
                nursery.start_soon(self._serve_metrics, metrics)
            nursery.start_soon(parts.gateways.run)
            nursery.start_soon(self._guarded, "the packet lane", parts.network.run)
            nursery.start_soon(parts.allow_file.follow)
            nursery.start_soon(self._tell_systemd, notifier)
            self._log.info("ready", node=parts.state.node, status=str(options.socket), version=__version__)
            await stop.wait()
            parts.draining = True
            await self._drain()
            nursery.cancel_scope.cancel()
        self._log.info("stopped")

    def reload(self) -> None:
        """Called at SIGHUP."""
        self.parts.allow_file.reload()

    async def _drain(self) -> None:
        """Every gateway is told; each tunnel lasts until its streams are done, at most drain_seconds."""
        self._log.info("draining", seconds=self.parts.options.drain_seconds)
        with trio.move_on_after(self.parts.options.drain_seconds):
            await self.parts.gateways.drain()

    async def _serve_metrics(self, listeners: list[trio.SocketListener]) -> None:
        from raven import metrics

        render = metrics.renderer("agent", lambda: report.families(self.parts))
        pages = {
            "/metrics": lambda query: Page(render(), metrics.CONTENT_TYPE),
            "/healthz": lambda query: Page(b"ok\n"),
        }
        await trio.serve_listeners(partial(serve_pages, pages=pages), listeners)

    async def _guarded(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Runs one lane so that a bug in it leaves the other lanes alone."""
        try:
            await run()
        except Exception:
            self._log.exception("a lane ended by a fault of the agent", lane=what)
            self.parts.problems.append(f"{what} ended by a fault of the agent; its log has the traceback")

    async def _answer(self, request: Request, peer: UnixPeer) -> Answer:
        match request:
            case PingRequest(node=node):
                result = await report.ping(self.parts, node)
                return Answer(error=result) if isinstance(result, str) else Answer(ping=result)
            case TraceRequest():
                return Answer(
                    error=f"this is the agent of node {self.parts.state.node}; a trace starts at a gateway"
                )
            case EventsRequest():
                return Answer(events=log.recent.lines())
            case StreamsRequest():
                return Answer(streams=report.streams(self.parts))
            case SnapshotRequest():
                return Answer(snapshot=report.snapshot(self.parts))

    async def _tell_systemd(self, notifier: Notifier) -> None:
        """READY at once: a node that cannot reach its gateway has an agent that runs well."""
        notifier.ready("dialling")
        while True:
            await self.parts.changed.wait()
            parts = [report.uplink_status(uplink) for uplink in self.parts.uplinks]
            notifier.status(
                "; ".join(f"{part.gateway} {part.lane.detail or part.lane.state}" for part in parts)
            )
