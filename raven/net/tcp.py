"""What trio leaves to the caller of TCP: peers that vanish without a word."""

import socket
from typing import Final

import trio

# Two minutes: a kubectl exec may be silent for hours, and NAT in between forgets it after some minutes.
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 60),  # seconds of silence before the first question
    (socket.TCP_KEEPINTVL, 15),  # seconds between two
    (socket.TCP_KEEPCNT, 4),  # questions without an answer
)


def peer_of(stream: trio.SocketStream) -> tuple[str, str]:
    """The peer's HOST:PORT for people, and its host alone; OSError if it is gone."""
    host, port = stream.socket.getpeername()[:2]
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}"), host


def host_of(address: str) -> str:
    """The host of what `peer_of` gave for people."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def watch_peer(stream: trio.SocketStream) -> None:
    """Lets the kernel find out, in two minutes, that the peer vanished; OSError if it is gone now."""
    for option, value in _KEEPALIVE:
        stream.setsockopt(socket.IPPROTO_TCP, option, value)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
