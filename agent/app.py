"""The agent's nursery: a tunnel to every gateway, the packet lane beside them, status, and the way out.

Only assembles. How a tunnel is kept stands in `uplink`, what streams may reach in `dialer`, how packets get
their routes in `network`, what an operator sees in `report`. Imports neither cryptography nor numpy: a small
device pays for every module.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import trio

from agent import report
from agent.allow_file import AllowFile
from agent.claims import Claims
from agent.dialer import Dialer
from agent.gateways import Gateways
from agent.network import AgentNetwork
from agent.options import AgentOptions
from agent.renewal import Renewal
from agent.uplink import Uplink
from raven import __version__, log
from raven.config import Address, parse_dial
from raven.control.messages import VERSION, AgentHello
from raven.errors import StateError
from raven.net.daemon import Stop
from raven.net.end import EndOptions
from raven.net.http_pages import Page, serve_pages
from raven.net.listeners import address_of, open_listeners
from raven.net.proxy import find_ways
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
from raven.oam.policy import Allow
from raven.oam.target import known_address_untrusted
from raven.registry.agent_state import AgentState


def joined_gateways(state: AgentState) -> list[Address]:
    """The addresses learned when joining, each once."""
    try:
        return list(dict.fromkeys(map(parse_dial, state.gateways)))
    except ValueError as error:
        raise StateError(
            f"{state.directory / 'agent.json'}: a gateway's address is wrong: {error}"
        ) from error


class Agent:
    """One running agent; its parts are public so that `report` can read them."""

    def __init__(
        self,
        options: AgentOptions,
        state: AgentState,
        *,
        config: Path | None = None,
        load: Callable[[], AgentOptions] | None = None,
    ) -> None:
        """`load` reads the options again, from the file `config` and whatever beats it."""
        self.options = options
        self.state = state
        self.started = time.monotonic()
        self.draining = False
        self.problems: list[str] = []
        self.network = AgentNetwork(
            EndOptions(
                private_key=state.wg_private_key,
                public_key=state.wg_public_key,
                listen_port=options.wg_port,
                pod_cidrs=options.pod_cidr,
                interface=options.wg_interface,
                state_dir=options.state_dir,
                backend=options.backend,
                off="switched off by --no-packets" if options.no_packets else "",
            ),
            node=state.node,
        )
        allow = Allow(options.allow, ip_address(options.node_address))
        self.dialer = Dialer(allow, node_address=options.node_address)
        self.allow_file = AllowFile(options, config, load, self._take_allow)
        self.renewal = Renewal(state)
        self._changed = trio.Event()
        self._ways = find_ways(options.proxy, os.environ)
        self._claims = Claims()
        self.gateways = Gateways(
            options.gateway,
            joined=() if options.gateway else joined_gateways(state),
            cluster=state.cluster,
            state_dir=options.state_dir,
            make=self._uplink,
            drain_seconds=options.drain_seconds,
        )
        if not self.gateways.uplinks:
            raise StateError(
                f"{state.directory / 'agent.json'}: names no gateway; give one with --gateway HOST:P"
            )
        self._log = log.get("agent")

    @property
    def uplinks(self) -> list[Uplink]:
        return self.gateways.uplinks

    def _uplink(self, address: Address) -> Uplink:
        return Uplink(
            address=address,
            cluster=self.state.cluster,
            network=self.network,
            renewal=self.renewal,
            accept=self.dialer.serve,
            hello=self._hello,
            grace=self.options.resume_seconds,
            ways=self._ways,
            learn=lambda told: self.gateways.learn(told),
            claims=self._claims,
            changed=self._uplink_changed,
        )

    async def serve(self, stop: Stop, notifier: Notifier) -> None:
        """Until `stop`, and then for as long as the drain takes."""
        options = self.options
        asked = open_socket(options.socket, group=options.socket_group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_socket, asked, options.socket, self._answer)
            if options.metrics_listen is not None:
                metrics = await open_listeners("metrics_listen", *options.metrics_listen)
                host, port = address_of(metrics)
                self._log.info("metrics", address=str(Address(host, port)))
                nursery.start_soon(self._serve_metrics, metrics)
            nursery.start_soon(self.gateways.run)
            nursery.start_soon(self._guarded, "the packet lane", self.network.run)
            nursery.start_soon(self.allow_file.follow)
            nursery.start_soon(self._tell_systemd, notifier)
            self._log.info("ready", node=self.state.node, status=str(options.socket), version=__version__)
            await stop.wait()
            self.draining = True
            await self._drain()
            nursery.cancel_scope.cancel()
        self._log.info("stopped")

    def reload(self) -> None:
        """Called at SIGHUP."""
        self.allow_file.reload()

    def _take_allow(self, options: AgentOptions) -> int:
        allow = Allow(options.allow, ip_address(options.node_address))
        cut = self.dialer.apply(allow, node_address=options.node_address)
        self.network.tell()  # the hello shows the list
        return cut

    async def _drain(self) -> None:
        """Every gateway is told; each tunnel lasts until its streams are done, at most drain_seconds."""
        self._log.info("draining", seconds=self.options.drain_seconds)
        with trio.move_on_after(self.options.drain_seconds):
            await self.gateways.drain()

    async def _serve_metrics(self, listeners: list[trio.SocketListener]) -> None:
        from raven import metrics

        render = metrics.renderer("agent", lambda: report.families(self))
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
            self.problems.append(f"{what} ended by a fault of the agent; its log has the traceback")

    async def _answer(self, request: Request, peer: UnixPeer) -> Answer:
        match request:
            case PingRequest(node=node):
                result = await report.ping(self, node)
                return Answer(error=result) if isinstance(result, str) else Answer(ping=result)
            case TraceRequest():
                return Answer(
                    error=f"this is the agent of node {self.state.node}; a trace starts at a gateway"
                )
            case EventsRequest():
                return Answer(events=log.recent.lines())
            case StreamsRequest():
                return Answer(streams=report.streams(self))
            case SnapshotRequest():
                return Answer(snapshot=report.snapshot(self))

    def _hello(self) -> AgentHello:
        packets, reason = self.network.offer()
        return AgentHello(
            version=VERSION,
            node=self.state.node,
            software=__version__,
            packets=packets,
            no_packets_reason=reason,
            allow=[str(rule) for rule in self.dialer.allow.rules],
            address=known_address_untrusted(self.options.node_address),
        )

    def _uplink_changed(self) -> None:
        self._changed.set()

    async def _tell_systemd(self, notifier: Notifier) -> None:
        """READY at once: a node that cannot reach its gateway has an agent that runs well."""
        notifier.ready("dialling")
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            parts = [report.uplink_status(uplink) for uplink in self.uplinks]
            notifier.status(
                "; ".join(f"{part.gateway} {part.lane.detail or part.lane.state}" for part in parts)
            )
