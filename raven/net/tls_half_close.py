"""A TLS stream that can say EOF and go on reading, as O&M needs at its TLS entry.

TLS 1.3 lets each direction end for itself (RFC 8446, section 6.1), and OpenSSL reads on after it has said
close_notify. Two things do not fit: CPython's `unwrap` looks for the answer at once, and OpenSSL takes data
that it finds then for an error. So EOF waits for what has arrived to be read first.
"""

import socket
import ssl
from typing import Final

import trio

from raven.net.tls_stream import TLSStream

_PATIENCE: Final = 1.0  # seconds for the reader to take what is there; then its direction breaks


class HalfCloseableTLSStream(TLSStream, trio.abc.HalfCloseableStream):
    """As `TLSStream`, with `send_eof`."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._received = trio.lowlevel.ParkingLot()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            return await super().receive_some(max_bytes)
        finally:
            self._received.unpark_all()

    async def receive_borrowed(self, max_bytes: int, *, eager: bool = False) -> memoryview:
        try:
            return await super().receive_borrowed(max_bytes, eager=eager)
        finally:
            self._received.unpark_all()

    async def send_eof(self) -> None:
        """Says close_notify after all that was sent; receiving goes on."""
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            with trio.move_on_after(_PATIENCE):
                while self._is_readable():
                    await self._received.park()
            await self._say_close_notify()
            self._half_sent = True  # nothing may follow

    def _is_readable(self) -> bool:
        """Whether more than an end waits to be read."""
        if self._socket.pending():
            return True
        try:
            return bool(socket.socket.recv(self._socket, 1, socket.MSG_PEEK))
        except OSError:  # nothing there, or nobody
            return False
