"""O&M on the gateway, assembled: who asks, what the policy says, the requests, and the doors they come by.

Opens what the options name and serves it; nothing here reads a byte of an asker.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import trio

from gateway.oam.audit import RegistryAudit
from gateway.oam.connect import HttpProxy
from gateway.oam.entry import Entries
from gateway.oam.identity import Identities
from gateway.oam.kubelet_door import kubelet_doors
from gateway.oam.policy_file import PolicyFile
from gateway.oam.requests import Requests
from gateway.oam.sni import NameSplicer
from gateway.options import GatewayOptions
from gateway.tunnels import Tunnels
from raven import log
from raven.config import Address
from raven.errors import ConfigError
from raven.net.listeners import BACKLOG, address_of, open_listeners
from raven.net.status_socket import open_socket
from raven.net.tls import oam_context
from raven.registry.gateway_state import GatewayState
from raven.registry.interface import AuditRecord, Registry

_Handler = Callable[[trio.SocketStream], Awaitable[None]]


class Oam:
    """The O&M side of one gateway."""

    def __init__(
        self,
        options: GatewayOptions,
        state: GatewayState,
        registry: Registry,
        tunnels: Tunnels,
        audit: RegistryAudit,
    ) -> None:
        """ConfigError for a policy or files that cannot be used."""
        if (options.oam_tls_certificate is None) != (options.oam_tls_key is None):
            raise ConfigError(
                "--oam-tls-certificate and --oam-tls-key go together; only one of them is given"
            )
        self._options = options
        self._state = state
        self._audit = audit
        self._log = log.get("oam")
        self.policy = PolicyFile(options.policy)
        self.identities = Identities(registry, cluster=state.cluster, own_ca=options.oam_client_ca is None)
        self.requests = Requests(
            tunnels=tunnels,
            audit=audit,
            policy=lambda: self.policy.policy,
            standing=self.identities.standing,
            each_max=options.oam_each_max,
        )
        self.proxy = HttpProxy(requests=self.requests, identify=self.identities.by_token, name=state.name)
        self._context: ssl.SSLContext | None = None
        if options.oam_tls_listen is not None:
            self.renew_context()
        self.entries = Entries(
            self.proxy,
            self.identities,
            context=self._current_context,
            connections_max=options.oam_connections_max,
            each_max=options.oam_each_max,
        )
        self._splicers: list[NameSplicer] = []
        self._kubelet_doors = list(kubelet_doors(options, self.requests, registry, state.cluster))
        self._listeners: list[tuple[list[trio.SocketListener], _Handler]] = []

    def renew_context(self) -> None:
        """Called when the gateway's certificate or CA has changed; StateError."""
        if self._options.oam_tls_listen is None:
            return
        foreign = self._options.oam_client_ca
        self._context = oam_context(
            self._options.oam_tls_certificate or self._state.certificate,
            self._options.oam_tls_key or self._state.key,
            foreign or self._state.ca,
            strict=foreign is None,
        )

    async def listen(self) -> dict[str, str]:
        """Opens the entries: what listens, and where. ConfigError, StateError."""
        options, found = self._options, {}
        entries = self.entries
        tcp: list[tuple[str, str, Address, _Handler]] = [
            ("O&M", "oam_listen", options.oam_listen, entries.serve_tcp)
        ]
        if options.oam_tls_listen is not None:
            tcp.append(("O&M over TLS", "oam_tls_listen", options.oam_tls_listen, entries.serve_tls))
        for lead in options.names_listen:
            splicer = NameSplicer(requests=self.requests, port=lead.port)
            self._splicers.append(splicer)
            serve_named = partial(entries.serve_named, splicer)
            tcp.append((f"names, port {lead.port}", "names_listen", lead.address, serve_named))
        for door, lead in self._kubelet_doors:
            serve_door = partial(entries.serve_tls_door, door)
            tcp.append((f"kubelets, port {lead.port}", "kubelet_listen", lead.address, serve_door))
        for what, key, address, serve in tcp:
            listeners = await open_listeners(key, *address)
            self._listeners.append((listeners, serve))
            found[what] = str(Address(address.host, address_of(listeners)[1]))
        if options.oam_socket is not None:
            listener = open_socket(options.oam_socket, group=options.socket_group, backlog=BACKLOG)
            self._listeners.append(([listener], entries.serve_unix))
            found["O&M socket"] = str(options.oam_socket)
        return found

    async def accept(self, connections: trio.Nursery) -> None:
        """Until cancelled; connections live on in the nursery `connections`."""
        try:
            async with trio.open_nursery() as nursery:
                for listeners, handler in self._listeners:
                    nursery.start_soon(
                        partial(trio.serve_listeners, handler, listeners, handler_nursery=connections)
                    )
        finally:
            if self._options.oam_socket is not None:
                self._options.oam_socket.unlink(missing_ok=True)

    def leave(self) -> None:
        """From now on /healthz says so and no connection is kept for another request; all are served."""
        for proxy in self._proxies():
            proxy.leave()

    async def settle(self) -> None:
        """Returns when every request that has come so far is at its target, or ended: after `leave`, once
        nobody is accepted any more. The caller bounds it.
        """
        for arrivals in [one.arrivals for one in self._proxies()] + [one.arrivals for one in self._splicers]:
            await arrivals.settle()

    def drain(self) -> None:
        """From now on idle connections close, and requests are turned away; those under way go on."""
        for splicer in self._splicers:
            splicer.draining = True
        for proxy in self._proxies():
            proxy.drain()

    def _proxies(self) -> list[HttpProxy]:
        return [self.proxy, *(door.proxy for door, _ in self._kubelet_doors)]

    async def keep(self) -> None:
        """Until cancelled: follows the policy's file, judges again what is under way."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.policy.follow, self._took_effect)
            nursery.start_soon(self.requests.keep_judging)

    def problems(self) -> Iterable[str]:
        return [self.policy.problem] if self.policy.problem else []

    def _took_effect(self) -> None:
        cut = self.requests.judge_again()
        permits = len(self.policy.policy.permits)
        self._audit.note(
            AuditRecord(
                time=time.time(),
                event="policy",
                node="",
                asker="local",
                target=self.policy.shown,
                verdict="allowed",
                detail=f"{permits} permits; {cut} requests cut",
            )
        )

    def _current_context(self) -> ssl.SSLContext:
        assert self._context is not None, "nothing listens for TLS without a context"
        return self._context
