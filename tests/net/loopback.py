"""Sockets and TLS connections on loopback for the tests of this package; certificates made once a run."""

import functools
import socket
import ssl
import tempfile
import time
from pathlib import Path

import trio

from raven.net.tls import STREAM_ALPN, agent_context, gateway_context
from raven.net.tls_stream import TLSStream, client_handshake, server_handshake
from raven.pki.certificate import Leaf
from raven.pki.csr import key_pem
from tests.pki.material import make_authority, make_key, seeded


class Files:
    """A leaf, its key and its CA in files, as the contexts want them."""

    def __init__(self, directory: Path, leaf: Leaf, ca_pem: str) -> None:
        self.certificate, self.key, self.ca = (
            directory / name for name in ("leaf.crt", "leaf.key", "ca.crt")
        )
        self.certificate.write_text(leaf.pem)
        self.key.write_bytes(key_pem(make_key(7)))
        self.ca.write_text(ca_pem)


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The agent's and the gateway's context of one cluster."""
    now = time.time()  # OpenSSL judges certificates by the real clock
    ca, key = make_authority(now=now), make_key(7).public_key()
    node = ca.issue_node("shop-1", key, now=now, random=seeded())
    gateway = ca.issue_gateway("gw", key, hosts=["gw.example"], now=now, random=seeded())
    with tempfile.TemporaryDirectory() as directory:
        agent = agent_context(Files(Path(directory), node, ca.certificate_pem))
        return agent, gateway_context(Files(Path(directory), gateway, ca.certificate_pem))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


def tcp_streams() -> tuple[trio.SocketStream, trio.SocketStream]:
    left, right = tcp_pair()
    for end in (left, right):
        end.setblocking(False)
    return (
        trio.SocketStream(trio.socket.from_stdlib_socket(left)),
        trio.SocketStream(trio.socket.from_stdlib_socket(right)),
    )


async def tls_pair() -> tuple[TLSStream, TLSStream]:
    """An agent's and a gateway's end of a TLS connection on loopback."""
    agent, gateway = contexts()
    ends: dict[str, TLSStream] = {}
    left, right = tcp_streams()

    async def client() -> None:
        ends["client"] = await client_handshake(left, agent)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        ends["server"] = await server_handshake(right, gateway)
    assert ends["client"].selected_alpn_protocol() == STREAM_ALPN
    return ends["client"], ends["server"]
