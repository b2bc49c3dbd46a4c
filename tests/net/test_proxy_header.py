"""PROXY protocol headers: what load balancers send, and what those could send who pose as one."""

import ipaddress
import random
import socket
import struct

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.net.proxy_header import LENGTH_MAX, ProxyHeaders, Source, parse_v1_untrusted

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
V4 = socket.inet_pton(socket.AF_INET, "203.0.113.7") + socket.inet_pton(socket.AF_INET, "192.0.2.1")
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "fd00::1")
PORTS = struct.pack("!HH", 40000, 443)
TLVS = b"\x04\x00\x02xx" + b"\xea\x00\x05hello"


def v2(rest: bytes, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest) if length is None else length) + rest


GOOD = [
    (v2(V4 + PORTS), Source("203.0.113.7", 40000)),
    (v2(V4 + PORTS + TLVS), Source("203.0.113.7", 40000)),
    (v2(V6 + PORTS, family=0x21), Source("2001:db8::7", 40000)),
    (v2(V6 + PORTS + bytes(LENGTH_MAX - 36), family=0x21), Source("2001:db8::7", 40000)),
    (v2(b"", command=0x20, family=0), None),  # LOCAL: the balancer's own health check
    (v2(V4 + PORTS, command=0x20), None),
    (v2(b"\x01\x02", family=0x00), None),  # UNSPEC
    (v2(V4 + PORTS, family=0x12), None),  # UDP
    (v2(bytes(216), family=0x31), None),  # Unix
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n", Source("203.0.113.7", 40000)),
    (b"PROXY TCP6 2001:db8::7 fd00::1 40000 443\r\n", Source("2001:db8::7", 40000)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
]

BAD = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", "something else"),  # TLS at once
    (b"GET / HTTP/1.1\r\n", "something else"),
    (v2(V4 + PORTS, command=0x11), "version 1 of the binary kind"),
    (v2(V4 + PORTS, command=0x2F), "command 15"),
    (v2(V4), "8 bytes for two addresses"),
    (v2(V6 + PORTS[:2], family=0x21), "34 bytes for two addresses"),
    (v2(V4 + PORTS, length=LENGTH_MAX + 1), f"{LENGTH_MAX} is the most"),
    (v2(V4 + PORTS, length=100), "the end of the connection"),
    (v2(b"")[:14], "the end of the connection"),
    (b"PROX", "the end of the connection"),
    (b"", "the end of the connection"),
    (b"PROXY TCP4 2001:db8::7 fd00::1 40000 443\r\n", "other family"),
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n", "beyond 65535"),
    (b"PROXY TCP4 203.0.113.999 192.0.2.1 1 443\r\n", "no address"),
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n", "a line that is not"),
    (b"PROXY TCP4  203.0.113.7 192.0.2.1 1 2\r\n", "a line that is not"),
    (b"PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n", "a line that is not"),
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n" + b"x" * 200, "more than 107 bytes"),
    (b"PROXY UNKNOWN" + b" " * 200, "more than 107 bytes"),
]


async def read(data: bytes, *, piece: int = 1 << 20, close: bool = True) -> tuple[Source | None, bytes]:
    """What a header says, and what was left for the reader behind."""
    near, far = trio.socket.socketpair()
    try:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for start in range(0, len(data), piece):
                    await far.send(data[start : start + piece])
                    await trio.lowlevel.checkpoint()
                if close:
                    far.shutdown(socket.SHUT_WR)

            nursery.start_soon(send)
            source = await ProxyHeaders(()).read(near)
        rest = b""
        while more := await near.recv(65536):
            rest += more
        return source, rest
    finally:
        near.close()
        far.close()


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize(("header", "source"), GOOD)
async def test_a_header_is_taken_and_nothing_behind_it(
    header: bytes, source: Source | None, piece: int
) -> None:
    assert await read(header + b"\x16\x03\x01rest", piece=piece) == (source, b"\x16\x03\x01rest")


@pytest.mark.parametrize(("data", "words"), BAD)
async def test_what_is_no_header_is_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises((PeerError, ExceptionGroup)) as caught:
        await read(data)
    error = caught.value
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, PeerError)
    assert error.reason == "proxy-header"
    assert words in str(error)


async def test_noise_is_refused_or_read_and_never_raises_otherwise() -> None:
    noise = random.Random(7)
    for _ in range(300):
        start = noise.choice([SIGNATURE, b"PROXY TCP4 ", b"PROXY ", b""])
        data = start + noise.randbytes(noise.randrange(60))
        reasons = set()
        try:
            await read(data)
        except* PeerError as group:
            reasons = {error.reason for error in group.exceptions if isinstance(error, PeerError)}
        assert reasons <= {"proxy-header"}


@given(st.binary(max_size=120))
def test_any_line_is_a_source_nothing_or_a_refusal(line: bytes) -> None:
    try:
        source = parse_v1_untrusted(line)
    except PeerError:
        return
    assert source is None or ipaddress.ip_address(source.host)


async def test_a_header_that_does_not_come_costs_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02  # a real socket stands in between
    near, far = trio.socket.socketpair()
    with near, far:
        await far.send(SIGNATURE)
        with pytest.raises(PeerError, match="no whole header within 5 s"):
            await ProxyHeaders(()).read(near)


def test_only_named_networks_are_believed() -> None:
    headers = ProxyHeaders([ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("fd00::/64")])
    for host in ("10.0.0.7", "::ffff:10.0.0.7", "fd00::1", "fd00::1%eth0"):
        assert headers.expects(host)
    for host in ("10.0.1.7", "203.0.113.7", "fe80::1%eth0", "unknown", ""):
        assert not headers.expects(host)
    assert not ProxyHeaders(()).expects("10.0.0.7")
