"""Takes the connections of agents: TLS, who is it, which of two tunnels is right, then the tunnel's life.

A stranger gets little: a place among few, five seconds to say anything, ten for its handshake, ten for its
hello, and one sentence that says why it was turned away. Before the handshake is done and the certificate
known, nothing is kept for it but that. Every refusal is counted by reason. What a node offers goes to
the packet lane and the registry; what the packet lane answers goes back over the same tunnel.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from gateway.arrival import HELLO_MAX, address_of, behind_balancer, first_bytes, greeted
from gateway.followers import Followers
from gateway.hello import checked, dismiss, receive_hello
from gateway.join import JoinResult
from gateway.network import GatewayNetwork
from gateway.packet_relay import NodeRelay
from gateway.refusals import BUSY, Refusals
from gateway.renew import granted, hello_for, is_expired, refused
from gateway.tunnels import NodeTunnel, TunnelTable
from raven import log
from raven.control.messages import (
    AgentHello,
    ControlMessage,
    GatewayHello,
    PacketReport,
    RenewRequest,
    decode_control_untrusted,
    encode,
)
from raven.errors import PeerError, RefusedError, StateError
from raven.keys import PublicKey
from raven.mux.connection import Limits
from raven.mux.resume import Resume
from raven.net.busy import Pace
from raven.net.proxy_header import ProxyHeaders
from raven.net.strangers import Strangers
from raven.net.tcp import host_of
from raven.net.tls import FOLLOW_ALPN, JOIN_ALPN, Peer, alpn, check_node
from raven.net.tls_stream import TLSStream, server_handshake
from raven.net.tunnel import Carriage, Tunnel, TunnelLost
from raven.oam.target import known_address_untrusted
from raven.registry.interface import CertificateRecord, Registry

# Connections that have not said who they are. Each holds some 10 kB until its ClientHello has come, then some
# 100 kB of TLS. A site may have many agents behind one address, and all come back at once.
STRANGERS_LOW = 384  # from here on networks that have some are refused at random
STRANGERS_HIGH = 768
STRANGERS_EACH = 256  # of one /24 or /64
# Handshakes a second that those are spread over who are turned away; two slow cores manage some hundred.
COME_BACK_RATE = 50.0
HANDSHAKE_MAX = 10.0  # seconds from there to its end; the slowest satellite link needs two
RIVAL_MAX = 2.0  # seconds an older tunnel of the same node gets to prove that it is alive

# Tunnels of one node that have yet to take its place in the table, each some 100 kB: a new one, and those
# that an uplink that comes and goes has left behind.
UNPLACED_MAX = 4
RENEW_ONLY_MAX = 60.0  # seconds a node with an expired certificate gets to renew it

Join = Callable[[TLSStream, str], Awaitable[JoinResult]]  # stream, address


class Renew(Protocol):
    """The next certificate of `node`, which came with `serial`; errors as of `gateway.renew.renew`."""

    async def __call__(
        self, csr_pem: str, *, node: str, serial: str, address: str, now: float
    ) -> CertificateRecord: ...


@dataclass(eq=False, kw_only=True)
class TunnelServer:
    """The agents' end of the gateway."""

    table: TunnelTable
    registry: Registry
    context: ssl.SSLContext
    cluster: str
    hello: GatewayHello  # what every agent is told
    network: GatewayNetwork
    join: Join  # serves a connection of ALPN raven-join/1 and closes it
    renew: Renew
    news: Callable[[NodeTunnel], None]  # has the node told what it does not know yet
    outdated: Callable[[str, str], bool] | None = None  # node, serial: whether the CA before has signed it
    grace: float = 0.0  # seconds a node gets to come back to its tunnel after its transport broke
    headers: ProxyHeaders = field(default_factory=lambda: ProxyHeaders(()))  # of load balancers in front
    followers: Followers | None = None  # where this gateway has the CA
    refused: Counter[str] = field(default_factory=Counter)  # connections turned away, by reason
    lost: Counter[str] = field(default_factory=Counter)  # tunnels that ended unasked, by reason
    accepted: int = 0  # tunnels
    resumed: int = 0  # tunnels that went on over another transport
    pace: Pace = field(default_factory=lambda: Pace(COME_BACK_RATE))
    places: Strangers = field(
        default_factory=lambda: Strangers(low=STRANGERS_LOW, high=STRANGERS_HIGH, each_max=STRANGERS_EACH)
    )

    def __post_init__(self) -> None:
        self._log = log.get("agents")
        self._unplaced: Counter[str] = Counter()  # tunnels that are not in the table, by nodes that joined
        # The registry writes for one at a time: more threads would only wait, each with a stack and a heap.
        self._writing = trio.CapacityLimiter(1)
        self._refusals = Refusals(self.refused, self._log)

    @property
    def strangers(self) -> int:
        """Connections that have yet to say who they are."""
        return len(self.places)

    async def serve(self, listeners: list[trio.SocketListener], tunnels: trio.Nursery) -> None:
        """Accepts until cancelled; connections live on in the nursery `tunnels`, which drains them."""
        await trio.serve_listeners(self._serve_connection, listeners, handler_nursery=tunnels)

    async def _serve_connection(self, transport: trio.SocketStream) -> None:
        address = address_of(transport)
        try:
            address = await behind_balancer(transport, self.headers, address)
            await self._serve_stranger(transport, address)
        except (PeerError, RefusedError, TunnelLost) as error:
            self._refusals.turned_away(error.reason, address, str(error))
        except trio.BrokenResourceError as error:
            self._refusals.turned_away("broken", address, str(error))
        except StateError as error:
            self._log.error("registry", why=str(error))
            self.refused["registry"] += 1
        except Exception:
            # One agent's connection may show a bug of ours, and may not end the tunnels of the others.
            self._log.exception("connection ended by a fault of the gateway", address=address)
            self.refused["fault"] += 1

    def _joined(self, result: JoinResult, address: str) -> None:
        if result.verdict == "accepted":
            if result.role == "gateway":
                self._log.info("gateway joined", gateway=result.node, address=address)
            else:
                self._log.info("node joined", node=result.node, address=address)
        else:
            self._refusals.turned_away(f"join-{result.verdict}", address, result.message)

    async def _serve_stranger(self, transport: trio.SocketStream, address: str) -> None:
        try:
            with self.places.place(host_of(address)):
                await first_bytes(transport)
                stream = await server_handshake(transport, self.context, timeout=HANDSHAKE_MAX)
                try:
                    protocol = alpn(stream)
                    if protocol == JOIN_ALPN:
                        self._joined(await self.join(stream, address), address)
                        return
                    if protocol == FOLLOW_ALPN and self.followers is None:
                        raise PeerError("no-followers", "this gateway has no CA; follow the one that has")
                    if protocol == FOLLOW_ALPN and self.followers is not None:
                        gateway = self.followers.identified(stream)
                    else:
                        peer = self._identified(stream)
                        carriage = await greeted(stream)
                        self._check_welcome(peer, carriage)
                except (PeerError, RefusedError, StateError) as error:
                    await dismiss(stream, str(error))
                    raise
        except RefusedError as error:
            # The cheapest answer there is; an honest agent comes back when it is told to.
            if error.reason in BUSY:
                with contextlib.suppress(OSError):
                    await transport.socket.send(self.pace.line(trio.current_time()))
            await trio.aclose_forcefully(transport)
            raise
        if protocol == FOLLOW_ALPN and self.followers is not None:
            await self.followers.serve(stream, gateway, address)
        elif (live := self._left_by(peer, carriage.theirs)) is not None:
            await self._resume(live, carriage, peer, address)
        else:
            await self._serve_node(carriage, peer, address)

    def _identified(self, stream: TLSStream) -> Peer:
        peer = check_node(stream, cluster=self.cluster)
        is_expired(peer, now=time.time())  # raises where not even a renewal is left
        self.registry.check_certificate(node=peer.identity.name, serial=peer.serial)
        return peer

    def _check_welcome(self, peer: Peer, carriage: Carriage) -> None:
        """Returns if the node may have a tunnel now; RefusedError."""
        node = peer.identity.name
        # Its first word took time, in which `revocation` may have passed by.
        self.registry.check_certificate(node=node, serial=peer.serial)
        if self._unplaced[node] >= UNPLACED_MAX and self._left_by(peer, carriage.theirs) is None:
            raise RefusedError(
                "too-many-tunnels", f"{UNPLACED_MAX} tunnels of node {node} have yet to say their hello"
            )

    def _left_by(self, peer: Peer, theirs: Resume | None) -> NodeTunnel | None:
        """The tunnel that the peer comes back to; None for a new one."""
        live = self.table.live(peer.identity.name)  # whose it is by certificate; the id alone opens nothing
        if live is None or theirs is None or not live.tunnel.fits(theirs):
            return None
        return None if is_expired(peer, now=time.time()) else live

    async def _resume(self, live: NodeTunnel, carriage: Carriage, peer: Peer, address: str) -> None:
        lost = live.tunnel.suspended_since
        live.address, live.serial, live.expires = address, peer.serial, peer.not_after
        if not await live.tunnel.carry(carriage):
            raise PeerError("not-resumed", f"node {live.node} left again before its tunnel went on")
        self.resumed += 1
        self.registry.record_use(node=live.node, serial=peer.serial, now=time.time())
        gap = 0.0 if lost is None else trio.current_time() - lost
        self._log.info("node resumed", node=live.node, address=address, gap_s=round(gap, 3))

    async def _serve_node(self, carriage: Carriage, peer: Peer, address: str) -> None:
        node = peer.identity.name
        tunnel = Tunnel(
            carriage,
            initiator=False,
            peer=f"node {node} at {address}",
            limits=Limits(grace=self.grace),
        )
        connected = trio.Event()  # its hello was good, and it is the node's one tunnel
        lost: TunnelLost | None = None
        self._unplaced[node] += 1
        try:
            async with trio.open_nursery() as nursery:
                relay = NodeRelay(tunnel, nursery, partial(self.network.relay, node))
                tunnel.on_datagrams = relay.received
                nursery.start_soon(self._converse, tunnel, peer, address, connected)
                try:
                    await tunnel.run(None)
                except TunnelLost as error:
                    lost = error
                nursery.cancel_scope.cancel()
        finally:
            if not connected.is_set():
                self._unplaced[node] -= 1
        if connected.is_set():
            self.lost[lost.reason if lost else "goodbye"] += 1
            why = str(lost) if lost else "it said goodbye"
            self._log.info("node disconnected", node=node, address=address, why=why)
        elif lost is not None:
            raise lost

    async def _converse(self, tunnel: Tunnel, peer: Peer, address: str, connected: trio.Event) -> None:
        """The control messages of one tunnel: the hello, then whatever changes, until the tunnel ends.

        Whatever the node does wrong ends its tunnel, and so `Tunnel.run`, with the reason.
        """
        node = peer.identity.name
        try:
            with trio.fail_after(HELLO_MAX):
                hello = await receive_hello(tunnel, node)
            outdated = self.outdated is not None and self.outdated(node, peer.serial)
            greeting = hello_for(peer, self.hello, now=time.time(), outdated=outdated)
            if greeting.renew_only:
                await self._renew_only(tunnel, peer, address, greeting)
                return
            live = NodeTunnel(
                node=node,
                address=address,
                tunnel=tunnel,
                hello=hello,
                since=time.time(),
                serial=peer.serial,
                expires=peer.not_after,
            )
            await self._take_place(live)
            connected.set()
            self._unplaced[node] -= 1
            self.accepted += 1
            try:
                # From now on `revocation` finds the tunnel in the table; this is for what it did before.
                self.registry.check_certificate(node=node, serial=peer.serial, connected=True)
                self.registry.record_use(node=node, serial=peer.serial, now=time.time())
                await live.send(greeting)
                await self._said(live, hello)
                self._log.info("node connected", node=node, address=address, software=hello.software)
                async for data in tunnel.control:
                    if tunnel.lost is not None:  # what still waited when the tunnel was cut
                        return
                    await self._said(live, decode_control_untrusted(data))
            finally:
                self._left(live)
        except (TunnelLost, trio.EndOfChannel):
            return  # `Tunnel.run` tells why
        except trio.TooSlowError:
            tunnel.abort("hello-timeout", f"no hello within {HELLO_MAX:.0f} s of the handshake")
        except (PeerError, RefusedError) as error:
            tunnel.abort(error.reason, str(error))
        except StateError as error:
            self._log.error("registry", why=str(error))
            tunnel.abort("registry", "the gateway's registry does not answer; its log says why")

    async def _take_place(self, live: NodeTunnel) -> None:
        """Puts the tunnel into the table, or refuses it because an older one of that node is alive.

        The usual second tunnel is a node that came back by another way while the gateway still holds the
        dead first one: that one does not answer, and the newer wins. If the older does answer, two machines
        have one identity; taking turns would break both, so the one that works stays. A node that comes back
        to its tunnel is no rival: it has said which one it means, and never gets here.
        """
        while (rival := self.table.live(live.node)) is not None:
            if await _answers(rival.tunnel):
                raise RefusedError(
                    "node-connected",
                    f"node {live.node} already has a tunnel that answers, from {rival.address}; do two "
                    "machines have one identity?",
                )
            rival.tunnel.abort("replaced", f"a newer tunnel from {live.address} took the place of this one")
            self.table.remove(rival)
        self.table.add(live)

    async def _said(self, live: NodeTunnel, message: ControlMessage) -> None:
        """Records what the node said about itself."""
        match message:
            case AgentHello():
                live.hello = checked(message, live.node)
                offer = message.packets
                if self.network.offer(live.node, offer):
                    offer = None  # refused, with a sentence in the map: not for the registry either
                await trio.to_thread.run_sync(
                    lambda: self.registry.record_hello(
                        live.node,
                        public_key=PublicKey.from_base64(offer.public_key) if offer else None,
                        pod_cidrs=offer.pod_cidrs if offer else [],
                        software=message.software,
                        now=time.time(),
                        address=known_address_untrusted(message.address),
                    ),
                    limiter=self._writing,
                )
                self.news(live)
            case PacketReport():
                live.report = message
            case RenewRequest():
                renewed = await self._renew(live.tunnel, live.node, live.serial, live.address, message)
                if renewed is not None:
                    live.serial, live.expires = renewed.serial, renewed.not_after
            case _:
                raise PeerError("bad-control", f"an agent does not send {type(message).__name__}")

    async def _renew_only(self, tunnel: Tunnel, peer: Peer, address: str, greeting: GatewayHello) -> None:
        """The tunnel of a node whose certificate has expired: no streams, no packets, not in the table."""
        node = peer.identity.name
        await tunnel.send_control(encode(greeting))
        with trio.move_on_after(RENEW_ONLY_MAX):
            async for data in tunnel.control:
                message = decode_control_untrusted(data)
                if not isinstance(message, RenewRequest):
                    raise PeerError(
                        "renew-only",
                        f"the certificate of node {node} has expired: this tunnel renews it and nothing else",
                    )
                await self._renew(tunnel, node, peer.serial, address, message)
            return
        tunnel.abort("renew-only", f"the certificate was not renewed within {RENEW_ONLY_MAX:.0f} s")

    async def _renew(
        self, tunnel: Tunnel, node: str, serial: str, address: str, request: RenewRequest
    ) -> CertificateRecord | None:
        """Answers a request; the certificate that was granted."""
        now = time.time()
        try:
            renewed = await self.renew(request.csr_pem, node=node, serial=serial, address=address, now=now)
        except (PeerError, RefusedError, StateError) as error:
            answer = refused(error)
            self.refused[f"renew-{answer.reason}"] += 1
            self._log.warning("not renewed", node=node, reason=answer.reason, why=str(error))
            await tunnel.send_control(encode(answer))
            return None
        self._log.info("certificate renewed", node=node, serial=renewed.serial)
        await tunnel.send_control(encode(granted(renewed, now=now)))
        return renewed

    def _left(self, live: NodeTunnel) -> None:
        self.table.remove(live)
        try:
            self.registry.record_seen({live.node: time.time() - live.evidence_age()})
        except StateError as error:
            self._log.error("registry", why=str(error))


async def _answers(tunnel: Tunnel) -> bool:
    """Whether the other end proves within RIVAL_MAX that it is there; not if its transport is gone."""
    if tunnel.suspended_since is not None:
        return False
    with trio.move_on_after(RIVAL_MAX):
        try:
            await tunnel.ping()
        except TunnelLost:
            return False
        return True
    return False
