"""The followed end: gives other gateways a copy of the registry, and what only the CA can give.

Above stands the tunnel server, which accepted a connection of ALPN raven-follow/1. A follower is a gateway
by its certificate, and one that joined here by its key; it is cut off within a second of its removal. Who
follows can have certificates issued for nodes by tokens and renewals alone, by the rules of this registry.
"""

from __future__ import annotations

import base64
import os
import time
from dataclasses import dataclass, field

import trio
from cryptography import x509

from gateway.join import OwnEnroller, certificate_record
from gateway.renew import renew
from raven import log
from raven.control.copies import (
    VERSION,
    AskJoin,
    AskOwn,
    AskRenewal,
    FollowerHello,
    FromFollower,
    Issued,
    NotIssued,
    Trusted,
    Used,
    decode_follower_untrusted,
)
from raven.control.messages import JoinRequest, encode
from raven.errors import PeerError, RefusedError, StateError
from raven.net.tls import Peer, check_gateway
from raven.net.tls_stream import TLSStream
from raven.net.tunnel import Tunnel, TunnelLost
from raven.pki.certificate import load_leaf, pin_of
from raven.pki.csr import key_hash, read_csr_untrusted
from raven.pki.renewal import is_valid_at
from raven.registry.gateway_state import GatewayState
from raven.registry.interface import CertificateRecord
from raven.registry.sqlite import SqliteRegistry

INTERVAL = 0.5  # seconds between two looks for changes; asking takes 10 µs
HELLO_MAX = 10.0  # seconds from the end of the handshake to a whole hello
FOLLOWERS_MAX = 32  # at once; each takes a tunnel's memory and one copy on its way


@dataclass(eq=False)
class Follower:
    """A gateway that is connected now."""

    name: str
    address: str  # where agents dial it
    tunnel: Tunnel
    since: float = field(default_factory=time.time)  # Unix seconds


class Followers:
    """The gateways that follow this one."""

    def __init__(self, *, state: GatewayState, registry: SqliteRegistry) -> None:
        self._state = state
        self._registry = registry
        self._log = log.get("gateways")
        self.connected: dict[str, Follower] = {}

    def identified(self, stream: TLSStream) -> tuple[str, bytes]:
        """The name of the gateway at the other end, and the hash of its key; PeerError, RefusedError."""
        peer: Peer = check_gateway(stream, cluster=self._state.cluster)
        if not is_valid_at(time.time(), peer.not_before, peer.not_after):
            raise PeerError("certificate-time", f"the certificate of {peer.identity} does not count now")
        hashed = pin_of(x509.load_der_x509_certificate(stream.getpeercert(binary_form=True)))
        self._registry.check_gateway(peer.identity.name, key_hash=hashed)
        if len(self.connected) >= FOLLOWERS_MAX:
            raise RefusedError("too-many-followers", f"{FOLLOWERS_MAX} gateways follow this one already")
        return peer.identity.name, hashed

    async def serve(self, stream: trio.abc.Stream, who: tuple[str, bytes], address: str) -> None:
        """Serves the follower that was `identified` until it leaves."""
        name, hashed = who
        tunnel = Tunnel(stream, initiator=False, peer=f"gateway {name} at {address}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._converse, tunnel, name, hashed, nursery)
            try:
                await tunnel.run(None)
            except TunnelLost as error:
                self._log.info("gateway does not follow any more", gateway=name, why=str(error))
            nursery.cancel_scope.cancel()

    async def _converse(self, tunnel: Tunnel, name: str, hashed: bytes, nursery: trio.Nursery) -> None:
        try:
            with trio.fail_after(HELLO_MAX):
                hello = decode_follower_untrusted(await tunnel.control.receive())
            if not isinstance(hello, FollowerHello) or (hello.gateway, hello.version) != (name, VERSION):
                raise PeerError(
                    "bad-control", f"gateway {name} did not begin with a hello of version {VERSION}"
                )
            if (older := self.connected.get(name)) is not None:
                older.tunnel.abort("replaced", "it has connected anew")
            follower = self.connected[name] = Follower(name, hello.address, tunnel)
            try:
                # Not entered: who was removed between its certificate and its hello does not come back.
                self._registry.check_gateway(name, key_hash=hashed)
                self._registry.readdress_gateway(name, address=hello.address, now=time.time())
                self._log.info(
                    "gateway follows", gateway=name, address=hello.address, software=hello.software
                )
                nursery.start_soon(self._send_news, tunnel, name, hashed)
                async for data in tunnel.control:
                    message = decode_follower_untrusted(data)
                    # In turn: one gateway's questions wait for each other, never for another gateway's.
                    await self._answer(tunnel, name, hashed, message)
            finally:
                if self.connected.get(name) is follower:
                    del self.connected[name]
        except (TunnelLost, trio.EndOfChannel):
            return
        except trio.TooSlowError:
            tunnel.abort("hello-timeout", f"no hello within {HELLO_MAX:.0f} s")
        except (PeerError, RefusedError) as error:
            tunnel.abort(error.reason, str(error))
        except StateError as error:
            self._log.error("registry", why=str(error))
            tunnel.abort("registry", "the registry does not answer; the log of the followed gateway says why")

    async def _send_news(self, tunnel: Tunnel, name: str, hashed: bytes) -> None:
        """The CA with every change of it, and the whole registry: a storm of changes becomes two copies a
        second.
        """
        sent, told = -1, None
        try:
            while True:
                self._registry.check_gateway(name, key_hash=hashed)
                if told != (trusted := (self._state.ca_pem, self._state.previous)):
                    told = trusted
                    await tunnel.send_control(encode(self._trusted()))
                if (newest := self._registry.copy_revision()) != sent:
                    sent = newest
                    for page in await trio.to_thread.run_sync(self._registry.copy):
                        await tunnel.send_control(encode(page))
                await trio.sleep(INTERVAL)
        except TunnelLost:
            return
        except RefusedError as error:
            tunnel.abort(error.reason, str(error))
        except StateError as error:
            self._log.error("registry", why=str(error))
            tunnel.abort("registry", "the registry does not answer; the log of the followed gateway says why")

    def _trusted(self) -> Trusted:
        previous = self._state.previous
        return Trusted(
            ca_pem=self._state.ca_pem,
            link_pem=previous.link_pem if previous is not None else "",
            overlap=previous is not None,
        )

    async def _answer(self, tunnel: Tunnel, name: str, hashed: bytes, message: FromFollower) -> None:
        now = time.time()
        if isinstance(message, Used):
            self._registry.record_use(node=message.node, serial=message.serial, now=now)
            return
        if isinstance(message, FollowerHello):
            raise PeerError("bad-control", f"gateway {name} says hello twice")
        try:
            record = await self._issue(name, hashed, message, now)
        except (PeerError, RefusedError) as error:
            answer: Issued | NotIssued = NotIssued(
                number=message.number, reason=error.reason, message=str(error)
            )
        except StateError as error:
            self._log.error("registry", why=str(error))
            why = "the gateway with the CA cannot store anything at the moment; its log says why"
            answer = NotIssued(number=message.number, reason="unavailable", message=why)
        else:
            answer = Issued(
                number=message.number,
                serial=record.serial,
                node=record.node,
                key_hash=base64.b64encode(record.key_hash).decode("ascii"),
                not_before=record.not_before,
                not_after=record.not_after,
                issued=record.issued,
                pem=record.pem,
            )
        await tunnel.send_control(encode(answer))

    async def _issue(
        self, name: str, hashed: bytes, message: AskJoin | AskRenewal | AskOwn, now: float
    ) -> CertificateRecord:
        match message:
            case AskJoin():
                request = JoinRequest(token=message.token, node=message.node, csr_pem=message.csr_pem)
                enroller = OwnEnroller(self._state.authority, self._registry)
                asker = f"{message.asker} by way of gateway {name}"
                pem = await enroller.enrol(request, asker=asker, now=now)
                return certificate_record(load_leaf(pem.encode()), now=now)
            case AskRenewal():
                return await renew(
                    message.csr_pem,
                    node=message.node,
                    serial=message.serial,
                    authority=self._state.authority,
                    registry=self._registry,
                    address=f"{message.asker} by way of gateway {name}",
                    now=now,
                    overlap=self._state.previous is not None,
                )
            case AskOwn():
                key = read_csr_untrusted(message.csr_pem)
                if key_hash(key) != hashed:
                    raise RefusedError("wrong-key", "a gateway keeps the key that it joined with")
                hosts = [self.connected[name].address.rpartition(":")[0].strip("[]")]
                leaf = self._state.authority.issue_gateway(name, key, hosts=hosts, now=now, random=os.urandom)
                return certificate_record(leaf, now=now)
