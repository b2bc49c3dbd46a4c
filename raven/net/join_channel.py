"""The join's messages over a TLS stream: each behind a u32 length, each within a deadline.

Used by both ends, below `gateway.join` and `raven.net.joining`. A join is four messages with a stranger, so
everything is small: nothing is read ahead, and whatever does not fit ends the join with one PeerError.
"""

import contextlib
import ssl
import struct
from collections.abc import Iterator
from typing import Protocol

import trio

from raven.control.messages import JoinMessage, Message, decode_join_untrusted, encode
from raven.errors import PeerError

# - length of the message  u32, network byte order
_LENGTH = struct.Struct("!I")

JOIN_MESSAGE_MAX = 1 << 16  # bytes; two certificates and a list of gateways, ten times over
STEP_TIMEOUT = 10.0  # seconds for a whole message in or out; three round trips of the worst satellite link


class ByteStream(Protocol):
    """The two calls of trio.abc.Stream that a join needs."""

    async def send_all(self, data: bytes) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...


class JoinChannel:
    """One end of a join over `stream`, whose handshake is done."""

    def __init__(self, stream: ByteStream, *, step_timeout: float = STEP_TIMEOUT) -> None:
        self._stream = stream
        self._step_timeout = step_timeout

    async def send(self, message: Message) -> None:
        """PeerError "closed" or "timeout"."""
        data = encode(message)
        assert len(data) <= JOIN_MESSAGE_MAX
        with _step("take", self._step_timeout):
            await self._stream.send_all(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> JoinMessage:
        """PeerError "closed", "timeout", "oversized", or "bad-join" for what is no message."""
        with _step("send", self._step_timeout):
            (length,) = _LENGTH.unpack(await self._receive_exactly(_LENGTH.size))
            if length > JOIN_MESSAGE_MAX:
                raise PeerError(
                    "oversized",
                    f"a message of {length} bytes was announced; {JOIN_MESSAGE_MAX} is the most",
                )
            data = await self._receive_exactly(length)
        return decode_join_untrusted(data)

    async def _receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = await self._stream.receive_some(count - len(data))
            if not chunk:
                raise PeerError("closed", f"the other end hung up after {len(data)} of {count} bytes")
            data += chunk
        return bytes(data)


@contextlib.contextmanager
def _step(verb: str, timeout: float) -> Iterator[None]:
    try:
        with trio.fail_after(timeout):
            yield
    except trio.TooSlowError as error:
        message = f"the other end did not {verb} a whole message in {timeout:.0f} s"
        raise PeerError("timeout", message) from error
    except (trio.BrokenResourceError, OSError) as error:
        cause = error.__cause__ or error
        why = (
            "the other end hung up"
            if isinstance(cause, ssl.SSLEOFError)
            else f"the connection broke: {cause}"
        )
        raise PeerError("closed", why) from error
