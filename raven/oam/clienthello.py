"""The server name in a TLS ClientHello, read off the first bytes of a connection without answering any.

Whoever splices by name must not hold a key, so it reads what the client says in the clear and passes every
byte on (RFC 8446 sections 4.1.2, 5.1; RFC 6066 section 3). All versions from TLS 1.0 on begin with this very
message. It may come in any number of records, and these in any number of segments.
"""

import struct
from typing import Final

from raven.errors import PeerError
from raven.names import is_name

HELLO_MAX: Final = 16 * 1024  # bytes with all record headers; post-quantum key shares make one of 2 KiB

# - content type: u8, 22 is a handshake
# - legacy version: u16, 0x0301 to 0x0304
# - length: u16, 1 to 2**14
_RECORD = struct.Struct(">BHH")
_HANDSHAKE = 22
_FRAGMENT_MAX = 1 << 14
_CLIENT_HELLO = 1
_SERVER_NAME = 0  # extension, and the type of a host name in it

# RFC 8446 section 6.2: fatal alerts by what was wrong. For the rest TLS has no word but internal_error.
_ALERTS: Final = {
    "unknown-node": 112,  # unrecognized_name
    "no-server-name": 112,
    "not-allowed": 49,  # access_denied
    "not-permitted": 49,
    "no-identity": 49,
    "not-tls": 10,  # unexpected_message
    "bad-hello": 50,  # decode_error
}
_INTERNAL_ERROR = 80


class HelloBuffer:
    """The beginning of a connection; `data` is everything received, to be passed on."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._parsed = 0  # bytes of `data` in whole records
        self._handshake = bytearray()

    def receive_data(self, data: bytes | bytearray) -> None:
        self.data += data

    def server_name_untrusted(self) -> str | None:
        """The name, lower case and without a final dot; None until the ClientHello is whole.

        PeerError "not-tls", "bad-hello", "hello-too-large" or "no-server-name".
        """
        while (record := self._next_record()) is not None:
            self._handshake += record
            if (hello := _whole_hello(self._handshake)) is not None:
                return _server_name(hello)
        if len(self.data) >= HELLO_MAX:
            raise PeerError("hello-too-large", f"no whole ClientHello in {HELLO_MAX} bytes")
        return None

    def _next_record(self) -> memoryview | None:
        rest = len(self.data) - self._parsed
        if rest and self.data[self._parsed] != _HANDSHAKE:
            raise PeerError("not-tls", "the connection does not begin with a TLS handshake")
        if rest < _RECORD.size:
            return None
        _, version, length = _RECORD.unpack_from(self.data, self._parsed)
        if not (0x0301 <= version <= 0x0304 and 1 <= length <= _FRAGMENT_MAX):
            raise PeerError("not-tls", "the connection does not begin with a TLS record")
        if rest < _RECORD.size + length:
            return None
        begin = self._parsed + _RECORD.size
        self._parsed = begin + length
        # A copy: a view would keep `data` from growing.
        return memoryview(bytes(self.data[begin : self._parsed]))


def _whole_hello(handshake: bytearray) -> memoryview | None:
    """The body of the ClientHello once it is all there: type u8, length u24, body."""
    if handshake and handshake[0] != _CLIENT_HELLO:
        raise PeerError("bad-hello", "the first handshake message is not a ClientHello")
    if len(handshake) < 4:
        return None
    length = int.from_bytes(handshake[1:4])
    if length > HELLO_MAX:
        raise PeerError("hello-too-large", f"a ClientHello of {length} bytes; at most {HELLO_MAX} are taken")
    return memoryview(bytes(handshake[4 : 4 + length])) if len(handshake) >= 4 + length else None


class _Reader:
    """Takes a structure apart from its front; PeerError "bad-hello" where it ends too soon."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, length: int) -> memoryview:
        if length > len(self._data):
            raise PeerError("bad-hello", "a field of the ClientHello is longer than what holds it")
        taken, self._data = self._data[:length], self._data[length:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> "_Reader":
        """A variable-length vector behind a length of `size` bytes."""
        return _Reader(self.take(self.number(size)))


def _server_name(body: memoryview) -> str:
    hello = _Reader(body)
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    extensions = hello.vector(2) if hello else hello
    if hello:
        raise PeerError("bad-hello", "something stands behind the extensions of the ClientHello")
    found: list[_Reader] = []
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            found.append(content)
    if len(found) > 1:
        # Two readers could take one each, and disagree on where the connection goes.
        raise PeerError("bad-hello", "the ClientHello has two server_name extensions")
    if not found:
        raise PeerError("no-server-name", "the ClientHello names no server; ask by name, not by address")
    return _host_name(found[0])


def _host_name(extension: _Reader) -> str:
    names = extension.vector(2)
    kind, name = names.number(1), bytes(names.vector(2)._data)
    if kind != _SERVER_NAME or names or extension:
        raise PeerError("bad-hello", "the server_name extension does not hold exactly one host name")
    host = name.decode("ascii", "replace").lower().removesuffix(".")
    if not is_name(host):
        raise PeerError("bad-hello", "the server name cannot be the name of a node")
    return host


def fatal_alert(reason: str) -> bytes:
    """The TLS record that tells a client why its ClientHello leads nowhere, as far as TLS has a word."""
    return _RECORD.pack(21, 0x0303, 2) + bytes([2, _ALERTS.get(reason, _INTERNAL_ERROR)])
