"""What a gateway is made of, and how the parts know each other; nothing here runs.

`app` runs them; `report` and `trace` read them.
"""

from __future__ import annotations

import time
from ipaddress import ip_network
from typing import TYPE_CHECKING

from gateway.addresses import ANYWHERE, advertised, gateway_list
from gateway.broadcast import Broadcast
from gateway.devices import device_options, device_port
from gateway.followers import Followers
from gateway.following import CopiedRegistry, Following
from gateway.join import Enroller, OwnEnroller, serve_join
from gateway.network import GatewayNetwork
from gateway.oam.assembly import Oam
from gateway.oam.audit import RegistryAudit
from gateway.options import GatewayOptions
from gateway.trust import Trust
from gateway.tunnel_server import TunnelServer
from gateway.tunnels import TunnelTable
from raven.config import Address, parse_dial
from raven.net.proxy_header import ProxyHeaders
from raven.registry.gateway_state import GatewayState
from raven.registry.interface import Registry
from raven.registry.sqlite import SqliteRegistry
from raven.topology.model import IPNetwork

if TYPE_CHECKING:
    from gateway.kubernetes import Kubernetes
    from gateway.sharing import Sharing


class Parts:
    """Of one gateway, public so that others can read them."""

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
        self.ca_problem = ""  # why a change of the CA was not taken
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
        self.network.tell_missed = self._tell_missed
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
                changed=self.list_gateways,
                renewed=self.load_certificate,
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

    def list_gateways(self) -> None:
        self.broadcast.list_gateways(gateway_list(self.registry))

    def load_certificate(self) -> None:
        """New connections are shown what lies on disk."""
        self.trust.load()
        self.adopt_trust()

    def adopt_trust(self) -> None:
        """Connections that come from now on are judged by the CA there is now."""
        self.server.context, self.server.hello = self.trust.context, self.trust.hello
        self.server.outdated = self.trust.outdated
        self.oam.renew_context()

    def rights_changed(self) -> None:
        """Called when the registry may have taken something back, or allowed it."""
        self.oam.requests.judge_again()
        for live in self.table.connected():
            self.network.offer(live.node, live.hello.packets)

    def _tell_missed(self, node: str) -> None:
        if (live := self.table.live(node)) is not None:
            live.tell_missed()

    def _addresses(self) -> list[str]:
        """Where agents that join now dial: this gateway first, which they have just reached."""
        others = (known.address for known in self.broadcast.gateways.gateways)
        return list(dict.fromkeys((str(self.advertise), *others)))

    def _enroller(self) -> Enroller:
        return self.following or OwnEnroller(self.state.authority, self.registry)

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
