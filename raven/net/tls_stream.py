"""TLS over a TCP socket as a trio stream, on the socket itself rather than through memory buffers.

OpenSSL reads and writes the non-blocking socket and trio only waits for readiness: 0.68 CPU seconds per GiB
for both ends against 1.4 to 2.1 with trio.SSLStream, which carries every record through two memory buffers.
What a connection must prove is `raven.net.tls`'s business. Errors of ssl and of the socket leave here as
HandshakeFailed or BrokenResourceError with the cause chained.
"""

import contextlib
import operator
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from raven.errors import PeerError
from raven.net.conflict import ConflictDetector
from raven.net.tls import handshake_problem

RECORD_MAX: Final = 16 * 1024  # bytes of plaintext in one TLS record (RFC 8446, section 5.1)
TYPED_MAX: Final = 1024  # bytes; a record of less that comes alone is most often somebody who types
BORROW_MAX: Final = 256 * 1024  # bytes; beyond it the cost per byte no longer falls
CLOSE_TIMEOUT: Final = 1.0  # seconds for the close_notify to find room in the socket
LOOK_MAX: Final = 32  # bytes of an answer that a caller may see before TLS does
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds; three round trips on a path that loses packets

# Bytes that may wait unsent in the kernel, ahead of every keystroke. A keystroke that shares 10 Mb/s with a
# copy takes 101 ms, with 128 KiB 200 ms, without a limit 436 ms; the copy has 9.55 Mb/s each time. Nothing
# between 16 KiB and unlimited changes the throughput on loopback.
NOTSENT_LOWAT: Final = 32 * 1024
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; the socket module of Python 3.11 does not name it

# Where `receive_borrowed` puts what it lends. One for all connections of an event loop, because the loan ends
# before anyone else can run: a hundred idle agents do not cost a hundred buffers.
_scratch: trio.lowlevel.RunVar[memoryview] = trio.lowlevel.RunVar("tls_scratch")

# - l_onoff: int, 1
# - l_linger: int, 0 seconds: close sends RST at once
LINGER_NONE: Final = struct.pack("ii", 1, 0)

T = TypeVar("T")


class HandshakeFailed(PeerError):
    """The TLS handshake did not succeed; `reason` is "tls-timeout", "tls-eof", "tls-certificate" or "tls"."""


class TLSStream(trio.abc.Stream):
    """An established TLS connection.

    Cancelling `send_all` may leave half a record in the socket: afterwards one can read and close, not send.
    Cancelling a receive loses nothing. An end without close_notify is BrokenResourceError, because anybody on
    the path can cause one.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._closed = False
        self._half_sent = False
        self._owed: bytes | None = None  # what `send_nowait` has begun
        self._receive_waited = False  # the last loan let other tasks run
        self._dry = False  # the last loan took all there was: OpenSSL would ask the socket in vain
        self._read_error: OSError | None = None  # what came behind the last bytes
        self._receive_conflict = ConflictDetector("another task is receiving from this TLS stream")
        self._send_conflict = ConflictDetector("another task is sending on this TLS stream")
        try:
            self._scratch = _scratch.get()
        except LookupError:
            self._scratch = memoryview(bytearray(BORROW_MAX))
            _scratch.set(self._scratch)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._send_conflict:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._owed is None or data is not self._owed:
                self._check_sendable()
            self._owed = None
            waited = False
            if data:
                # OpenSSL knows how far it got with these bytes and wants the same ones again.
                self._half_sent = True
                _, waited = await self._until_done(lambda: self._socket.send(data))
                self._half_sent = False
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()

    def send_nowait(self, data: bytes) -> bool:
        """Sends without waiting; False when the socket is full: `send_all` of the same bytes must follow.

        BrokenResourceError.
        """
        with self._send_conflict:
            self._check_sendable()
            try:
                self._socket.send(data)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._half_sent, self._owed = True, data
                return False
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            return True

    async def wait_send_all_might_not_block(self) -> None:
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        most = RECORD_MAX if max_bytes is None else operator.index(max_bytes)
        if most < 1:
            raise ValueError("max_bytes is at least 1")
        with self._receive_conflict:
            await trio.lowlevel.checkpoint()
            self._check_open()
            data, _ = await self._until_done(lambda: self._read_record(most))
            return data

    async def receive_borrowed(self, max_bytes: int, *, eager: bool = False) -> memoryview:
        """Like receive_some, but of several records, and only lent: valid until the caller's next await.

        Lets other tasks run at every second call at the latest: a pass of the event loop costs as much as two
        records. Where the other end is no tunnel, `eager`: what it writes ends in short records of all sizes.
        """
        with self._receive_conflict:
            waited = self._dry
            if waited:
                await trio.lowlevel.wait_readable(self._socket)
            elif not self._receive_waited:
                await trio.lowlevel.checkpoint()
            self._check_open()
            view = self._scratch[:max_bytes]
            filled, waited_again = await self._until_done(lambda: self._read_records(view, eager))
            self._receive_waited = waited or waited_again
            return view[:filled]

    def _read_record(self, most: int) -> bytes:
        if self._read_error is not None:
            raise self._read_error
        return self._socket.recv(min(most, RECORD_MAX))

    def _read_records(self, view: memoryview, eager: bool) -> int:
        """Fills `view` with what is there; the error that ended it comes out when there is nothing left."""
        if self._read_error is not None:
            raise self._read_error
        filled, read = 0, self._socket.read
        last = TYPED_MAX if eager else RECORD_MAX  # shorter ones are the last that is there, most often
        self._dry = False
        try:
            while filled < len(view):
                got = read(len(view) - filled, view[filled:])
                assert isinstance(got, int)
                filled += got
                if got < last:
                    # After a lone one asking again would nearly always be in vain.
                    self._dry = filled == got < len(view)
                    break
                if eager:
                    last = 1
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not filled:
                raise
        except OSError as error:
            if not filled:
                raise
            # Asked again, OpenSSL calls the connection that a fatal alert ended well closed.
            self._read_error = error
        return filled

    async def aclose(self) -> None:
        """Says close_notify, at most CLOSE_TIMEOUT long, and does not wait for the peer's."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        trio.lowlevel.notify_closing(self._socket)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if not self._half_sent:
                with trio.move_on_after(CLOSE_TIMEOUT):
                    await self._say_close_notify()
        finally:
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Lets the other end see a break at the close, not an end: no close_notify, and RST."""
        self._half_sent = True
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)

    async def _say_close_notify(self) -> None:
        while True:
            try:
                self._socket.unwrap()
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)
            except (OSError, ValueError):  # SSLWantRead: said, the answer is still out; else nobody hears it
                break
            else:
                break
        # Half of a close tells the kernel to send what waits; `close` may throw it away for unread data.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def selected_alpn_protocol(self) -> str | None:
        return self._socket.selected_alpn_protocol()

    def getpeercert(self, binary_form: bool = False) -> Any:
        return self._socket.getpeercert(binary_form)

    @property
    def socket(self) -> ssl.SSLSocket:
        """For addresses, options and TLS facts; not for reading or writing."""
        return self._socket

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this TLS stream was closed here")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._half_sent:
            raise trio.BrokenResourceError("an earlier send was cancelled in the middle of a record")

    async def _until_done(self, step: Callable[[], T]) -> tuple[T, bool]:
        try:
            return await _until_done(self._socket, step)
        except OSError as error:  # ssl.SSLError is one
            self._check_open()
            raise trio.BrokenResourceError(str(error)) from error


async def client_handshake(
    transport: trio.SocketStream | socket.socket,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    timeout: float = HANDSHAKE_TIMEOUT,
    look: Callable[[bytes], None] | None = None,
) -> TLSStream:
    """TLS as a client on a connected socket, which it takes over. HandshakeFailed; closes the socket then.

    `look` sees the first bytes of the answer before TLS does; what it raises comes out of here.
    """
    return await _handshake(
        transport,
        lambda sock: noticing_cuts(context).wrap_socket(
            sock, server_hostname=server_hostname, do_handshake_on_connect=False, suppress_ragged_eofs=False
        ),
        timeout,
        look,
    )


async def server_handshake(
    transport: trio.SocketStream | socket.socket,
    context: ssl.SSLContext,
    *,
    timeout: float = HANDSHAKE_TIMEOUT,
) -> TLSStream:
    """TLS as a server on a connected socket, which it takes over. HandshakeFailed; closes the socket then."""
    return await _handshake(
        transport,
        lambda sock: noticing_cuts(context).wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        ),
        timeout,
    )


def noticing_cuts(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, told that an end without close_notify is an error.

    Some CPython 3.11 set the opposite for OpenSSL 3, Debian 12's among them: there a cut looks like an end.
    """
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def prepare_socket(sock: socket.socket) -> None:
    """What every TCP socket of the stream lane wants; the handshakes do it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)


async def _handshake(
    transport: trio.SocketStream | socket.socket,
    wrap: Callable[[socket.socket], ssl.SSLSocket],
    timeout: float,
    look: Callable[[bytes], None] | None = None,
) -> TLSStream:
    if isinstance(transport, trio.SocketStream):
        plain = socket.socket(fileno=transport.socket.detach())
    else:
        plain = transport
    open_socket = plain
    try:
        plain.setblocking(False)
        with contextlib.suppress(OSError):  # a Unix socket has no such options
            prepare_socket(plain)
        open_socket = wrap(plain)
        with trio.fail_after(timeout):
            await trio.lowlevel.checkpoint()
            if look is not None:
                await _look(open_socket, look)
            await _until_done(open_socket, open_socket.do_handshake)
    except trio.TooSlowError as error:
        open_socket.close()
        raise HandshakeFailed("tls-timeout", f"no TLS handshake within {timeout:g} s") from error
    except OSError as error:  # ssl.SSLError is one
        open_socket.close()
        raise HandshakeFailed(_reason(error), handshake_problem(error)) from error
    except BaseException:
        open_socket.close()
        raise
    return TLSStream(open_socket)


async def _look(sock: ssl.SSLSocket, look: Callable[[bytes], None]) -> None:
    """Begins the handshake, and shows `look` what comes first; it may be there already."""
    # Of the socket below TLS: an SSLSocket's own recv takes no flags.
    with contextlib.suppress(BlockingIOError):
        look(socket.socket.recv(sock, LOOK_MAX, socket.MSG_PEEK))
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        await trio.lowlevel.wait_readable(sock)
    except ssl.SSLWantWriteError:
        return  # a socket this full has other worries
    else:
        return  # the answer came so fast that it is a handshake already
    look(socket.socket.recv(sock, LOOK_MAX, socket.MSG_PEEK))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls-certificate"
    if isinstance(error, ssl.SSLError) and not _is_cut(error):
        return "tls"
    return "tls-eof"


def _is_cut(error: ssl.SSLError) -> bool:
    """An end without close_notify; before 3.11.5 or so CPython has no class of its own for OpenSSL 3's."""
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


async def _until_done(sock: ssl.SSLSocket, step: Callable[[], T]) -> tuple[T, bool]:
    """Repeats `step` while OpenSSL wants more of the socket: the result, and whether that meant waiting."""
    waited = False
    while True:
        try:
            return step(), waited
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)
        waited = True
