"""Who is at the other end of a Unix socket: what the kernel says of it, which nobody can make up."""

import socket
import struct
from typing import Final, NamedTuple

import trio

# struct ucred of unix(7): pid, uid, gid
_UCRED: Final = struct.Struct("iII")


class UnixPeer(NamedTuple):
    """A process, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def unix_peer(stream: trio.SocketStream) -> UnixPeer:
    """The process that connected `stream`."""
    return UnixPeer(
        *_UCRED.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    )
