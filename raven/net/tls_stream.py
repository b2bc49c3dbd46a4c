"""TLS over a TCP socket as a trio stream, on the socket itself rather than through memory buffers."""

import socket
import ssl

import trio

from raven.errors import PeerError


class HandshakeFailed(PeerError):
    """The TLS handshake did not succeed; `reason` is "tls-timeout", "tls-eof", "tls-certificate" or "tls"."""


class TLSStream(trio.abc.Stream):
    """An established TLS connection."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def wait_send_all_might_not_block(self) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        raise NotImplementedError

    async def aclose(self) -> None: ...
    def selected_alpn_protocol(self) -> str | None:
        raise NotImplementedError

    def getpeercert(self, binary_form: bool = False) -> object:
        raise NotImplementedError


async def client_handshake(
    transport: trio.SocketStream | socket.socket,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    timeout: float = 10.0,
) -> TLSStream:
    """TLS as a client on a connected socket, which it takes over. HandshakeFailed; closes the socket then."""
    raise NotImplementedError


async def server_handshake(
    transport: trio.SocketStream | socket.socket, context: ssl.SSLContext, *, timeout: float = 10.0
) -> TLSStream:
    """TLS as a server on a connected socket, which it takes over. HandshakeFailed; closes the socket then."""
    raise NotImplementedError
