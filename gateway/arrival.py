"""A connection at the agents' listener before anything is known of it: whence, and does it say anything.

`gateway.tunnel_server` decides who is which; these only wait, each with a deadline.
"""

from __future__ import annotations

import trio

from raven.errors import PeerError
from raven.net.proxy_header import ProxyHeaders
from raven.net.tcp import host_of
from raven.net.tls_stream import TLSStream
from raven.net.transport_driver import hear
from raven.net.tunnel import Carriage

FIRST_MAX = 5.0  # seconds from accept to the first byte of the ClientHello
HELLO_MAX = 10.0  # seconds from the end of the handshake to a whole AgentHello


def address_of(transport: trio.SocketStream) -> str:
    """Where the connection comes from, for people."""
    try:
        host, port = transport.socket.getpeername()[:2]
    except OSError:
        return "unknown"
    return _shown(host, port)


async def behind_balancer(transport: trio.SocketStream, headers: ProxyHeaders, address: str) -> str:
    """The address of whom a load balancer speaks for; the connection's own where it is none."""
    if not headers.expects(host_of(address)):
        return address
    try:
        source = await headers.read(transport.socket)
    except BaseException:
        await trio.aclose_forcefully(transport)
        raise
    return address if source is None else _shown(source.host, source.port)


async def first_bytes(transport: trio.SocketStream) -> None:
    """Returns when the other end has said something: until then TLS costs nothing. PeerError "silent"."""
    try:
        with trio.fail_after(FIRST_MAX):
            await trio.lowlevel.wait_readable(transport.socket)
    except trio.TooSlowError as error:
        await trio.aclose_forcefully(transport)
        raise PeerError("silent", f"not a byte within {FIRST_MAX:.0f} s") from error


async def greeted(stream: TLSStream) -> Carriage:
    """The connection with the node's RESUME. PeerError, BrokenResourceError."""
    try:
        with trio.fail_after(HELLO_MAX):
            return Carriage(stream, *await hear(stream))
    except trio.TooSlowError as error:
        raise PeerError("hello-timeout", f"no hello within {HELLO_MAX:.0f} s of the handshake") from error
    except (trio.BrokenResourceError, trio.Cancelled):
        await trio.aclose_forcefully(stream)
        raise


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
