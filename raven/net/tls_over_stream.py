"""TLS as a client over any stream, a tunnel's above all, where there is no socket for OpenSSL to use.

Costs twice the CPU of `raven.net.tls_stream` and works everywhere. EOF is said by the stream below without a
close_notify, since trio's TLS cannot say one and read on: a server takes that for the hang-up it is.
"""

import ssl

import trio


class TLSOverStream(trio.abc.HalfCloseableStream):
    """TLS over `transport`, which it owns."""

    def __init__(
        self, transport: trio.abc.HalfCloseableStream, context: ssl.SSLContext, *, server_hostname: str
    ) -> None:
        self.transport = transport
        self._ended = False
        self._tls: trio.SSLStream[trio.abc.HalfCloseableStream] = trio.SSLStream(
            transport, context, server_hostname=server_hostname
        )

    async def handshake(self) -> None:
        """BrokenResourceError with the ssl module's error as its cause."""
        await self._tls.do_handshake()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._tls.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._tls.receive_some(max_bytes)

    async def send_eof(self) -> None:
        self._ended = True
        await self.transport.send_eof()

    async def aclose(self) -> None:
        if self._ended:  # there is no saying close_notify any more
            await self.transport.aclose()
        else:
            await self._tls.aclose()
