"""The two ends of a measured TCP stream: a server program at the edge, and clients as functions.

The first byte that a client sends says what it wants: `d` zeros until it closes, `u` a count of the zeros it
sends and the one at their end, `c` a count of what it sends until it says EOF, `e` the same byte back, `b` a
count and so many bytes back, `p` each byte back until it closes.
Blocking sockets and large buffers: what is measured is the way between.

    python -m bench.traffic PORT        serves on 127.0.0.1
"""

import socket
import struct
import sys
import threading
import time

_BUFFER = 1 << 18  # bytes; larger brings nothing
_COUNT = struct.Struct("!Q")
_WARM_UP = 0.3  # seconds not counted: slow start and growing windows


def serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve_one, args=(peer,), daemon=True).start()


def _serve_one(peer: socket.socket) -> None:
    with peer:
        try:
            match peer.recv(1):
                case b"d":
                    zeros = bytes(_BUFFER)
                    while True:
                        peer.sendall(zeros)
                case b"u":
                    peer.sendall(_COUNT.pack(_count_to_one(peer)))
                case b"c":
                    peer.sendall(_COUNT.pack(_drain(peer, None)))
                case b"e":
                    peer.sendall(b"e")
                case b"b":
                    (left,) = _COUNT.unpack(peer.recv(_COUNT.size, socket.MSG_WAITALL))
                    while left and (piece := peer.recv(min(left, _BUFFER))):
                        peer.sendall(piece)
                        left -= len(piece)
                case b"p":
                    while byte := peer.recv(1):
                        peer.sendall(byte)
        except OSError:
            return  # the client has what it wanted


def _drain(peer: socket.socket, until: float | None) -> int:
    """Bytes that came before the end, or before the time `until`."""
    buffer = bytearray(_BUFFER)
    total = 0
    while (until is None or time.perf_counter() < until) and (got := peer.recv_into(buffer)):
        total += got
    return total


def _count_to_one(peer: socket.socket) -> int:
    """Bytes up to the first that is not zero."""
    buffer = bytearray(_BUFFER)
    total = 0
    while got := peer.recv_into(buffer):
        total += got
        if buffer[got - 1]:
            break
    return total


def download(peer: socket.socket, seconds: float) -> float:
    """Gb/s from the server through `peer`."""
    peer.sendall(b"d")
    _drain(peer, time.perf_counter() + _WARM_UP)
    began = time.perf_counter()
    total = _drain(peer, began + seconds)
    return total * 8 / (time.perf_counter() - began) / 1e9


def upload(peer: socket.socket, seconds: float) -> float:
    """Gb/s to the server through `peer`, as the server counted them. Not every way has a half-close."""
    zeros = bytes(_BUFFER)
    began = time.perf_counter()
    peer.sendall(b"u")
    while time.perf_counter() - began < seconds:
        peer.sendall(zeros)
    peer.sendall(b"\x01")
    return _read_count(peer) * 8 / (time.perf_counter() - began) / 1e9


def half_close(peer: socket.socket) -> int:
    """How many bytes the server says it got, once it has heard that there are no more. struct.error."""
    peer.sendall(b"c12345")
    peer.shutdown(socket.SHUT_WR)
    return _read_count(peer)


def _read_count(peer: socket.socket) -> int:
    """The server's answer, in whatever pieces; a TLS socket takes no MSG_WAITALL."""
    answer = b""
    while len(answer) < _COUNT.size and (piece := peer.recv(_COUNT.size - len(answer))):
        answer += piece
    (total,) = _COUNT.unpack(answer)
    return int(total)


def echo(peer: socket.socket) -> None:
    """Returns when a byte has been to the server and back."""
    peer.sendall(b"e")
    if peer.recv(1) != b"e":
        raise ConnectionError("no echo")


def round_trips(peer: socket.socket, seconds: float, pause: float) -> list[float]:
    """Milliseconds that single bytes took there and back, one each `pause` seconds."""
    peer.sendall(b"p")
    taken = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        peer.sendall(b"x")
        if peer.recv(1) != b"x":
            raise ConnectionError("no echo")
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(max(0.0, began + pause - time.perf_counter()))
    return taken[1:]  # the first one waits for the target to be dialled, too


if __name__ == "__main__":
    serve(int(sys.argv[1]))
