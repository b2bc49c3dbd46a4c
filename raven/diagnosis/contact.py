"""Goes the way to a gateway as a stranger: DNS, TCP to each address or a proxy, TLS up to its join greeting.

Says nothing but ALPN raven-join/1, so it needs no identity, disturbs no tunnel of the node, and learns the
gateway's CA, certificate and clock. The gateway counts it as one join that was broken off ("join-closed").
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

from raven.config import Address
from raven.control.messages import JoinHello
from raven.diagnosis.evidence import TIMED_OUT, Attempt, Contact, Lookup, Proxied, Shown
from raven.errors import PeerError
from raven.net.busy import heed_untrusted
from raven.net.dial import dial
from raven.net.join_channel import JoinChannel
from raven.net.proxy import DIRECT, Proxy, Ways
from raven.net.tls import JOIN_ALPN, JOIN_NAME, join_context
from raven.net.tls_stream import client_handshake

LOOKUP_MAX: Final = 10.0  # seconds; a resolver asks two servers twice
CONNECT_MAX: Final = 5.0  # seconds for one address, two retransmitted SYNs
GREET_MAX: Final = 10.0  # seconds for TLS, and again for the greeting
ADDRESSES_MAX: Final = 8  # of one name that are tried
_IP_MTU: Final = 14  # linux/in.h; the socket module has no name for it
_IPV6_MTU: Final = 24  # linux/in6.h


async def meet(gateway: Address, *, greet: bool = True, known: str = "", ways: Ways = DIRECT) -> Contact:
    """The way to `gateway`, as far as it goes; nothing on it raises.

    `known` is the `ca_label` of the CA that this host trusts: while a gateway has two, it shows that one.
    """
    if (proxy := ways.proxy_for(*gateway)) is not None:
        return await _through(proxy, gateway, ways, known if greet else None)
    lookups = () if is_numeric(gateway.host) else await look_up(gateway.host)
    found = [address for lookup in lookups for address in lookup.addresses] or (
        [gateway.host] if is_numeric(gateway.host) else []
    )
    streams: dict[str, trio.SocketStream] = {}
    attempts = await try_all(found[:ADDRESSES_MAX], gateway.port, streams)
    contact = Contact(host=gateway.host, port=gateway.port, lookups=lookups, attempts=attempts)
    try:
        if not streams or not greet:
            return contact
        fastest = min(contact.connected, key=lambda attempt: attempt.seconds or 0.0)
        return await _greeted(contact, streams.pop(fastest.address), known)
    finally:
        for stream in streams.values():
            await trio.aclose_forcefully(stream)


async def _through(proxy: Proxy, gateway: Address, ways: Ways, known: str | None) -> Contact:
    """As `meet`, through the proxy; with `known` None no further than its yes."""
    contact = Contact(host=gateway.host, port=gateway.port)
    began = trio.current_time()
    try:
        stream = await dial(*gateway, ways=ways)
        source = str(stream.socket.getsockname()[0])
    except PeerError as error:
        return replace(contact, proxied=Proxied(proxy=str(proxy), reason=error.reason, problem=str(error)))
    took = trio.current_time() - began
    contact = replace(contact, proxied=Proxied(proxy=str(proxy), seconds=took, source=source))
    try:
        return contact if known is None else await _greeted(contact, stream, known)
    finally:
        await trio.aclose_forcefully(stream)


def is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def look_up(host: str) -> tuple[Lookup, ...]:
    """What the resolver of this machine says, IPv4 and IPv6 apart."""
    return (await _look_up(host, 4, socket.AF_INET), await _look_up(host, 6, socket.AF_INET6))


async def _look_up(host: str, family: int, number: socket.AddressFamily) -> Lookup:
    try:
        with trio.fail_after(LOOKUP_MAX):
            found = await trio.socket.getaddrinfo(host, None, family=number, type=socket.SOCK_STREAM)
    except trio.TooSlowError:
        return Lookup(family=family, problem=f"no answer within {LOOKUP_MAX:.0f} s", temporary=True)
    except socket.gaierror as error:
        temporary = error.errno == socket.EAI_AGAIN
        return Lookup(family=family, problem=error.strerror or str(error), temporary=temporary)
    except (OSError, UnicodeError) as error:
        return Lookup(family=family, problem=str(error))
    return Lookup(family=family, addresses=tuple(dict.fromkeys(str(address[0]) for *_, address in found)))


async def try_all(hosts: list[str], port: int, streams: dict[str, trio.SocketStream]) -> tuple[Attempt, ...]:
    """A connection to each of the numeric `hosts` at once; those that came about are put into `streams`."""
    attempts: dict[str, Attempt] = {}

    async def one(host: str) -> None:
        name = str(Address(host, port))
        attempts[name] = await _try(host, port, name, streams)

    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(one, host)
    return tuple(attempts[str(Address(host, port))] for host in hosts)


async def _try(host: str, port: int, name: str, streams: dict[str, trio.SocketStream]) -> Attempt:
    began = trio.current_time()
    try:
        with trio.fail_after(CONNECT_MAX):
            stream = await trio.open_tcp_stream(host, port)
    except trio.TooSlowError:
        return Attempt(address=name, problem=f"no answer within {CONNECT_MAX:.0f} s", errno=TIMED_OUT)
    except OSError as error:
        number = _errno(error)
        return Attempt(address=name, problem=os.strerror(number) if number else str(error), errno=number)
    if stream.socket.getsockname() == stream.socket.getpeername():
        # TCP's simultaneous open: a port of the ephemeral range without a listener can reach itself.
        await trio.aclose_forcefully(stream)
        return Attempt(address=name, problem=os.strerror(errno.ECONNREFUSED), errno=errno.ECONNREFUSED)
    streams[name] = stream
    source = str(stream.socket.getsockname()[0])
    return Attempt(address=name, seconds=trio.current_time() - began, source=source)


def _errno(error: OSError) -> int:
    """Of the address that was tried; trio keeps it in the cause of its own error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
        if isinstance(seen, OSError) and seen.errno:
            return seen.errno
        seen = seen.__cause__ or seen.__context__
    return 0


def known_path_mtu(sock: trio.socket.SocketType | socket.socket) -> int | None:
    """Bytes of the largest packet that the kernel thinks passes to the peer of `sock`; None if it will not
    say.
    """
    ipv6 = sock.family == socket.AF_INET6
    level, name = (socket.IPPROTO_IPV6, _IPV6_MTU) if ipv6 else (socket.IPPROTO_IP, _IP_MTU)
    with suppress(OSError):
        return sock.getsockopt(level, name)
    return None


async def _greeted(contact: Contact, transport: trio.SocketStream, known: str) -> Contact:
    began = trio.current_time()
    try:
        # The gateway sees the proxy, which says nothing about translation of our own address.
        source = "" if contact.proxied else str(Address(*transport.socket.getsockname()[:2]))
        stream = await client_handshake(
            transport,
            join_context(),
            server_hostname=known or JOIN_NAME,
            timeout=GREET_MAX,
            look=heed_untrusted,
        )
        try:
            if stream.selected_alpn_protocol() != JOIN_ALPN:
                raise PeerError("wrong-alpn", f"it speaks TLS, and not {JOIN_ALPN}")
            hello = await JoinChannel(stream, step_timeout=GREET_MAX).receive()
            leaf = stream.getpeercert(binary_form=True)
        finally:
            await trio.aclose_forcefully(stream)
        if not isinstance(hello, JoinHello):
            raise PeerError("bad-join", "it did not begin with a join-hello")
    except PeerError as error:
        return replace(contact, tls_reason=error.reason, tls_problem=str(error))
    took = trio.current_time() - began
    shown = Shown(
        ca_pem=hello.ca_pem,
        cluster=hello.cluster,
        leaf_der=leaf or b"",
        ahead=hello.now - time.time(),
        seconds=took,
        source=source,
        seen_as=hello.seen_as,
    )
    return replace(contact, shown=shown)
