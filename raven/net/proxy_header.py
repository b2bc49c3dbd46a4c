"""The PROXY protocol, versions 1 and 2: how a load balancer says who is behind a connection that it makes.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt. nginx speaks version 1 only, the load balancers
of clouds version 2. Who sends such a header can name any address, so it is read from networks that the
operator has named, and there a connection without one is refused. Exactly the header is consumed: the TLS
behind it belongs to another reader.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from raven.errors import PeerError

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

HEADER_MAX: Final = 5.0  # seconds for the whole header; a balancer sends it in its first packet
WAITING_MAX: Final = 1024  # connections whose header is not there yet; each costs a task, some 5 kB
LENGTH_MAX: Final = 4096  # bytes behind the fixed part; addresses take 36, TLVs of clouds some hundred

# Version 2:
# - signature     12 bytes
# - version 2 in the high half; command: 0 LOCAL (the balancer itself asks), 1 PROXY
# - address family in the high half: 1 IPv4, 2 IPv6; transport: 1 TCP
# - length of the rest: addresses, ports, then TLVs  u16
_V2: Final = struct.Struct("!12sBBH")
_V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_ADDRESSES: Final = {0x11: struct.Struct("!4s4sHH"), 0x21: struct.Struct("!16s16sHH")}

# Version 1: PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT CR LF, or PROXY UNKNOWN and anything.
_V1_START: Final = b"PROXY "
_V1_MAX: Final = 107  # bytes with CR LF, as the document has it
_V1: Final = re.compile(rb"PROXY TCP([46]) ([0-9a-fA-F.:]{2,39}) [0-9a-fA-F.:]{2,39} ([0-9]{1,5}) [0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Source:
    """Who a connection is from, by the word of the balancer."""

    host: str  # numeric
    port: int


def parse_v2_untrusted(head: bytes, rest: bytes) -> Source | None:
    """What the two parts of a version 2 header say; None leaves it to the connection itself. PeerError."""
    _, command, family, length = _V2.unpack(head)
    assert length == len(rest)
    if command >> 4 != 2:
        raise _bad(f"version {command >> 4} of the binary kind")
    if command & 0xF == 0:
        return None
    if command & 0xF != 1:
        raise _bad(f"command {command & 0xF}")
    layout = _ADDRESSES.get(family)
    if layout is None:  # UNSPEC, UDP, Unix: the document has receivers use the connection's own address
        return None
    if length < layout.size:
        raise _bad(f"{length} bytes for two addresses that take {layout.size}")
    source, _, port, _ = layout.unpack_from(rest)
    return Source(str(ipaddress.ip_address(source)), port)


def parse_v1_untrusted(line: bytes) -> Source | None:
    """What a version 1 line, without its end, says; None for UNKNOWN. PeerError."""
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return None
    match = _V1.fullmatch(line)
    if match is None:
        raise _bad("a line that is not PROXY TCP4|TCP6 and two addresses with their ports")
    try:
        address = ipaddress.ip_address(match[2].decode("ascii"))
    except ValueError as error:
        raise _bad("a source that is no address") from error
    if address.version != int(match[1]) or int(match[3]) > 65535:
        raise _bad("an address of the other family, or a port beyond 65535")
    return Source(str(address), int(match[3]))


class ProxyHeaders:
    """Reads the headers of one listener's connections."""

    def __init__(self, trusted: Sequence[IPNetwork]) -> None:
        self._trusted = tuple(trusted)
        self._waiting = 0

    def expects(self, host: str) -> bool:
        """Whether connections from `host` begin with a header."""
        if not self._trusted:
            return False
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    async def read(self, sock: trio.socket.SocketType) -> Source | None:
        """Takes the header off `sock`, and nothing else. PeerError "proxy-header" when there is none."""
        if self._waiting >= WAITING_MAX:
            raise _bad(f"nothing yet on {WAITING_MAX} connections")
        self._waiting += 1
        try:
            with trio.fail_after(HEADER_MAX):
                return await _read(sock)
        except trio.TooSlowError as error:
            raise _bad(f"no whole header within {HEADER_MAX:.0f} s") from error
        except OSError as error:
            raise _bad(f"the end of the connection ({error.strerror or error})") from error
        finally:
            self._waiting -= 1


async def _read(sock: trio.socket.SocketType) -> Source | None:
    start = await _exactly(sock, len(_V2_SIGNATURE))
    if start == _V2_SIGNATURE:
        head = start + await _exactly(sock, _V2.size - len(start))
        length = _V2.unpack(head)[3]
        if length > LENGTH_MAX:
            raise _bad(f"a header of {length} bytes; {LENGTH_MAX} is the most")
        return parse_v2_untrusted(head, await _exactly(sock, length))
    if not start.startswith(_V1_START):
        raise _bad("something else: is PROXY protocol switched on at the balancer?")
    line = bytearray(start)
    while not line.endswith(b"\r\n"):
        if len(line) >= _V1_MAX:
            raise _bad(f"a line of more than {_V1_MAX} bytes")
        # Byte by byte, in the process: what stands behind the line is TLS, and not ours to read.
        line += await _exactly(sock, 1)
    return parse_v1_untrusted(bytes(line[:-2]))


async def _exactly(sock: trio.socket.SocketType, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = await sock.recv(count - len(data))
        if not more:
            raise _bad("the end of the connection")
        data += more
    return bytes(data)


def _bad(what: str) -> PeerError:
    return PeerError("proxy-header", f"expected the balancer's PROXY protocol header, got {what}")
