"""What trio leaves to the caller of TCP: peers that vanish without a word."""

import contextlib
import fcntl
import os
import socket
import struct
import termios
from typing import Final

import trio

# Two minutes: a kubectl exec may be silent for hours, and NAT in between forgets it after some minutes.
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 60),  # seconds of silence before the first question
    (socket.TCP_KEEPINTVL, 15),  # seconds between two
    (socket.TCP_KEEPCNT, 4),  # questions without an answer
)

_LOOK: Final = 0.02  # seconds between two looks at what the other end has not taken; no event tells
_PATIENCE: Final = 10.0  # seconds in which it takes nothing at all


def peer_of(stream: trio.SocketStream) -> tuple[str, str]:
    """The peer's HOST:PORT for people, and its host alone; OSError if it is gone."""
    host, port = stream.socket.getpeername()[:2]
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}"), host


def host_of(address: str) -> str:
    """The host of what `peer_of` gave for people."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def receive_nowait(stream: object, most: int) -> bytes | None:
    """What a TCP connection has now, b"" at its end; None where one must wait. BrokenResourceError.

    By the file descriptor: trio's own calls cost twice as much, and let others run before they return.
    """
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        return os.read(stream.socket.fileno(), most)
    except BlockingIOError:
        return None
    except OSError as error:  # asked again, the kernel would say no more than that the connection has ended
        raise trio.BrokenResourceError(str(error)) from error


def send_nowait(stream: object, data: bytes | bytearray | memoryview) -> int:
    """How many bytes a TCP connection has taken; 0 where one must wait, or see what is wrong."""
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError):
            return os.write(stream.socket.fileno(), data)
    return 0


async def close(stream: trio.abc.AsyncResource) -> None:
    """Closes without a word, again if need be: what trio.aclose_forcefully does, for TCP without its price,
    a cancellation that is raised and caught.
    """
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        await trio.aclose_forcefully(stream)


async def finish(sock: trio.socket.SocketType | socket.socket) -> None:
    """Returns when the other end has taken all that was sent, or takes nothing any more.

    What it still sends is thrown away: closing with unread bytes makes TCP reset the connection, and with it
    goes what waits in the kernel. For who has said EOF and is done reading.
    """
    descriptor, before, progress = sock.fileno(), 0, trio.current_time()
    with contextlib.suppress(OSError):
        while waiting := _unacknowledged(descriptor):
            if waiting != before:
                before, progress = waiting, trio.current_time()
            elif trio.current_time() - progress > _PATIENCE:
                return
            with trio.move_on_after(_LOOK):
                await trio.lowlevel.wait_readable(descriptor)
                if not os.read(descriptor, 65536):
                    return  # nothing can come any more, and so nothing resets the connection
                await trio.lowlevel.checkpoint()


def _unacknowledged(descriptor: int) -> int:
    """Bytes that were sent and not acknowledged, EOF among them; SIOCOUTQ of tcp(7)."""
    answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


def watch_peer(stream: trio.SocketStream) -> None:
    """Lets the kernel find out, in two minutes, that the peer vanished; OSError if it is gone now."""
    for option, value in _KEEPALIVE:
        stream.setsockopt(socket.IPPROTO_TCP, option, value)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
