"""The gateway's nursery: opens what listens, starts every lane, drains when asked, leaves the host as it was.

Only assembles. What a connection is worth stands in `tunnel_server` and `oam_connect`; how packets get their
routes in `network`; what an operator sees in `report`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING

import trio

from gateway import report
from gateway.addresses import ANYWHERE, advertised, gateway_list
from gateway.audit import RegistryAudit
from gateway.broadcast import Broadcast
from gateway.devices import device_options, device_port
from gateway.followers import Followers
from gateway.following import CopiedRegistry, Following
from gateway.join import Enroller, OwnEnroller, serve_join
from gateway.network import GatewayNetwork
from gateway.oam import Oam
from gateway.options import GatewayOptions
from gateway.revocation import cut_withdrawn
from gateway.trace import trace
from gateway.trust import Trust
from gateway.tunnel_server import TunnelServer
from gateway.tunnels import TunnelTable
from raven import __version__, log
from raven.config import Address, parse_dial
from raven.errors import StateError
from raven.net.daemon import Stop
from raven.net.http_pages import Page, serve_pages
from raven.net.listeners import address_of, open_listeners
from raven.net.proxy_header import ProxyHeaders
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
from raven.registry.gateway_state import GatewayState
from raven.registry.interface import Registry
from raven.registry.sqlite import SqliteRegistry
from raven.topology.model import IPNetwork

if TYPE_CHECKING:
    from gateway.kubernetes import Kubernetes
    from gateway.sharing import Sharing

SEEN_INTERVAL = 60.0  # seconds between two writes of who was heard when; what a power cut may lose
GATEWAYS_INTERVAL = 1.0  # seconds between two looks at which gateways there are; it takes 20 µs
SETTLE_MAX = (
    2.0  # seconds for requests that were accepted before the listeners closed, to reach their targets
)
RENEW_INTERVAL = 3600.0  # seconds between two looks at the gateway's own certificate
CA_INTERVAL = 1.0  # seconds between two looks whether the CA was rotated


class Gateway:
    """One running gateway; its parts are public so that `report` can read them."""

    def __init__(
        self,
        options: GatewayOptions,
        state: GatewayState,
        registry: Registry,
        *,
        sharing: Sharing | None = None,
    ) -> None:
        """`sharing` where the registry is the one that the gateways of a Kubernetes cluster share."""
        self.options = options
        self.sharing = sharing
        self.state = state
        self.registry = registry
        self.advertise = advertised(options, state.follower)
        self.started = time.monotonic()
        self.draining = False
        self.listening: dict[str, str] = {}  # what: address
        self.problems: list[str] = []
        self.table = TunnelTable(self._last_seen, registry.nodes_at)
        self.audit = RegistryAudit(registry)
        self.kubernetes: Kubernetes | None = None
        if options.kubernetes_enabled:
            from gateway.kubernetes import Kubernetes  # who has no cluster does not pay for its client

            self.kubernetes = Kubernetes(self)
        self.network = GatewayNetwork(
            device_options(options, state, 0),
            name=state.name,
            endpoint=str(self._packet_endpoint()),
            pod_ranges=self._pod_ranges,
            assigned=self.kubernetes.assigned if self.kubernetes is not None else lambda node: None,
            further=[
                (device_options(options, state, number), str(self._packet_endpoint(number)))
                for number in range(1, options.devices)
            ],
        )
        self.following: Following | None = None
        self.followers: Followers | None = None
        listed = self.kubernetes is not None and self.kubernetes.listed
        if state.follower is None and not listed:
            registry.record_gateway(state.name, address=str(self.advertise), now=time.time())
        self.broadcast = Broadcast(self.table, self.network, gateway_list(registry))
        self.oam = Oam(options, state, registry, self.table, self.audit)
        self.trust = Trust(state, registry)
        if state.follower is not None:
            assert isinstance(registry, CopiedRegistry)
            self.following = Following(
                state=state,
                registry=registry,
                followed=parse_dial(state.follower.followed),
                advertise=self.advertise,
                changed=self._list_gateways,
                renewed=self._load_certificate,
            )
        elif sharing is None and isinstance(registry, SqliteRegistry):
            self.followers = Followers(state=state, registry=registry)
        self.server = TunnelServer(
            table=self.table,
            registry=registry,
            context=self.trust.context,
            cluster=state.cluster,
            hello=self.trust.hello,
            network=self.network,
            grace=options.resume_seconds,
            news=self.broadcast.connected,
            renew=self.trust.renew if self.following is None else self.following.renew,
            outdated=self.trust.outdated,
            join=lambda stream, address: serve_join(
                stream,
                enroller=self._enroller(),
                gateways=self._addresses(),
                peer=address,
                shown=self.trust.shown(stream),
            ),
            followers=self.followers,
            headers=ProxyHeaders(options.agents_proxy_protocol),
        )
        self._log = log.get("gateway")

    async def serve(self, stop: Stop, notifier: Notifier) -> None:
        """Until `stop`, and then for as long as the drain takes."""
        options = self.options
        agents = await self._listen("agents", "agents_listen", options.agents_listen)
        self.listening |= await self.oam.listen()
        asked = open_socket(options.socket, group=options.socket_group)
        self.listening["status"] = str(options.socket)
        self.network.load(self.registry.nodes())
        async with trio.open_nursery() as support:
            support.start_soon(serve_socket, asked, options.socket, self._answer)
            if options.metrics_listen is not None:
                metrics = await self._listen("metrics", "metrics_listen", options.metrics_listen)
                support.start_soon(self._serve_metrics, metrics)
            support.start_soon(self.audit.run)
            support.start_soon(self._guarded, "the packet lane", self.network.run)
            support.start_soon(self._guarded, "telling agents what has changed", self.broadcast.run)
            if self.kubernetes is not None:
                support.start_soon(self._guarded, "following Kubernetes", self.kubernetes.run)
            support.start_soon(self._watch_gateways)
            if self.following is not None:
                support.start_soon(self.following.run)
            if self.sharing is not None:
                support.start_soon(self._guarded, "following the cluster's registry", self.sharing.run)
            support.start_soon(self._remember_seen)
            support.start_soon(self.oam.keep)
            support.start_soon(
                partial(
                    cut_withdrawn,
                    self.registry,
                    self.table,
                    self.network,
                    also=self._rights_changed,
                )
            )
            support.start_soon(self._renew)
            support.start_soon(self._follow_ca)
            async with trio.open_nursery() as connections:
                accepting = trio.CancelScope()
                connections.start_soon(self._accept, accepting, agents, connections)
                self._log.info("ready", **self.listening, advertised=str(self.advertise), version=__version__)
                notifier.ready(f"agents at {self.advertise}")
                support.start_soon(self._tell_systemd, notifier)
                await stop.wait()
                self.draining = True
                await self._leave(notifier)
                accepting.cancel()
                await self._drain()
                connections.cancel_scope.cancel()
            support.cancel_scope.cancel()
        self._log.info("stopped")

    def reload(self) -> None:
        """Called at SIGHUP."""
        self.oam.policy.reload()

    async def _listen(self, what: str, key: str, address: Address) -> list[trio.SocketListener]:
        listeners = await open_listeners(key, *address)
        self.listening[what] = str(Address(address.host, address_of(listeners)[1]))
        return listeners

    async def _accept(
        self,
        scope: trio.CancelScope,
        agents: list[trio.SocketListener],
        connections: trio.Nursery,
    ) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.server.serve, agents, connections)
                nursery.start_soon(self.oam.accept, connections)

    async def _leave(self, notifier: Notifier) -> None:
        """Says that this gateway goes, and serves everybody until load balancers have noticed."""
        self.oam.proxy.leave()
        if grace := self.options.drain_grace_seconds:
            self._log.info("leaving", seconds=grace)
            notifier.status(f"leaving: everything is served for {grace:g} s more")
            await trio.sleep(grace)

    async def _drain(self) -> None:
        """Requests that have come reach their targets; then every agent is told, and each tunnel lasts until
        its streams are done, at most drain_seconds.
        """
        self._log.info("draining", tunnels=len(self.table.connected()), seconds=self.options.drain_seconds)
        with trio.move_on_after(SETTLE_MAX):
            await self.oam.proxy.settle()
        self.oam.drain()
        with trio.move_on_after(self.options.drain_seconds):
            async with trio.open_nursery() as nursery:
                for live in self.table.connected():
                    # Those without streams leave at once, and find the next process one after the other.
                    back = self.server.pace.seconds(trio.current_time())
                    drain = partial(live.tunnel.drain, back=back)
                    nursery.start_soon(drain, "the gateway is shutting down")

    async def _serve_metrics(self, listeners: list[trio.SocketListener]) -> None:
        from raven import metrics

        render = metrics.renderer("gateway", lambda: report.families(self))
        pages = {
            "/metrics": lambda query: Page(render(), metrics.CONTENT_TYPE),
            "/healthz": lambda query: Page(b"ok\n"),
            "/readyz": self._ready,
        }
        await trio.serve_listeners(partial(serve_pages, pages=pages), listeners)

    def _ready(self, query: str) -> Page:
        return Page(b"draining\n", status=503) if self.draining else Page(b"ok\n")

    async def _guarded(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Runs one lane so that a bug in it leaves the other lanes alone."""
        try:
            await run()
        except Exception:
            self._log.exception("a lane ended by a fault of the gateway", lane=what)
            self.problems.append(f"{what} ended by a fault of the gateway; its log has the traceback")

    def _addresses(self) -> list[str]:
        """Where agents that join now dial: this gateway first, which they have just reached."""
        others = (known.address for known in self.broadcast.gateways.gateways)
        return list(dict.fromkeys((str(self.advertise), *others)))

    def _enroller(self) -> Enroller:
        return self.following or OwnEnroller(self.state.authority, self.registry)

    def _list_gateways(self) -> None:
        self.broadcast.list_gateways(gateway_list(self.registry))

    def _load_certificate(self) -> None:
        """New connections are shown what lies on disk."""
        self.trust.load()
        self._adopt_trust()

    async def _watch_gateways(self) -> None:
        """Tells agents of gateways that came or went, whichever process saw to that."""
        while True:
            try:
                self._list_gateways()
            except StateError as error:
                self._log.error("registry", why=str(error))
            await trio.sleep(GATEWAYS_INTERVAL)

    async def _answer(self, request: Request, peer: UnixPeer) -> Answer:
        match request:
            case PingRequest(node=node):
                result = await report.ping(self, node)
                return Answer(error=result) if isinstance(result, str) else Answer(ping=result)
            case TraceRequest():
                way = await trace(self, request, self.oam.identities.at_unix_socket(peer))
                return Answer(error=way) if isinstance(way, str) else Answer(trace=way)
            case EventsRequest():
                return Answer(events=log.recent.lines())
            case StreamsRequest():
                return Answer(streams=report.streams(self))
            case SnapshotRequest():
                return Answer(snapshot=report.snapshot(self))

    async def _remember_seen(self) -> None:
        while True:
            await trio.sleep(SEEN_INTERVAL)
            now = time.time()
            seen = {live.node: now - live.evidence_age() for live in self.table.connected()}
            try:
                await trio.to_thread.run_sync(self.registry.record_seen, seen)
            except StateError as error:
                self._log.error("registry", why=str(error))

    async def _renew(self) -> None:
        while True:
            await trio.sleep(RENEW_INTERVAL)
            try:
                if self.state.renew_if_due(now=time.time()):
                    self._load_certificate()
                    self._log.info("renewed the gateway's certificate")
            except (StateError, OSError) as error:
                self._log.error("the gateway's certificate was not renewed", why=str(error))

    async def _follow_ca(self) -> None:
        """Takes what `ca rotate` and `ca retire` left, and tells the agents that are connected."""
        told = ""
        while True:
            await trio.sleep(CA_INTERVAL)
            try:
                if not self.state.follow_rotation(now=time.time()):
                    continue
                self.trust.load()
                self._adopt_trust()
                told = ""
            except (StateError, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    self._log.error("the CA was not changed", why=told)
                continue
            overlap = self.state.previous is not None
            self._log.info("the CA has changed", pin=pin_text(self.state.authority.pin), overlap=overlap)
            for live in self.table.connected():
                with suppress(TunnelLost):
                    await live.send(self.trust.hello_again(live.node, live.serial, now=time.time()))

    def _adopt_trust(self) -> None:
        """Connections that come from now on are judged by the CA there is now."""
        self.server.context, self.server.hello = self.trust.context, self.trust.hello
        self.server.outdated = self.trust.outdated
        self.oam.renew_context()

    async def _tell_systemd(self, notifier: Notifier) -> None:
        while True:
            connected = len(self.table.connected())
            notifier.status(f"{connected} agents connected; agents dial {self.advertise}")
            await trio.sleep(10)

    def _rights_changed(self) -> None:
        """Called when the registry may have taken something back, or allowed it."""
        self.oam.requests.judge_again()
        for live in self.table.connected():
            self.network.offer(live.node, live.hello.packets)

    def _pod_ranges(self, node: str) -> list[IPNetwork]:
        """In which ranges the node may claim pod networks: those for all, and its own."""
        record = self.registry.node(node)
        own = () if record is None else record.pod_allow
        return [ip_network(text) for text in (*self.options.pod_range, *own)]

    def _last_seen(self, name: str) -> float | None:
        record = self.registry.node(name)
        if record is None:
            raise KeyError(name)
        return record.last_seen

    def _packet_endpoint(self, device: int = 0) -> Address:
        host = self.options.wg_listen.host
        if host in ANYWHERE:
            told = self.kubernetes.packets_at if self.kubernetes is not None else ""
            host = told or self.advertise.host
        return Address(host, device_port(self.options, device))
