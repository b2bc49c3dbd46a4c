"""Initiations by somebody who knows a device's public key and no more, as many as it takes for cookies."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

from raven.keys import PublicKey
from raven.wg.cookie import MacGenerator
from raven.wg.messages import Initiation
from tests.lab.machine import Machine

_DIFFERENT = 500  # messages that are sent again and again: none ever authenticates
_ON_THE_WAY = 4 << 20  # bytes of them, counted as the kernel does, that may be in the queues of a cable
_COOKIE_REPLY_LEN = 64  # bytes
_SO_SNDBUFFORCE = 32  # not limited by net.core.wmem_max; Python has no name for it


@contextlib.contextmanager
def initiations(
    machine: Machine, public_key: str, address: tuple[str, int], *, burst: int, every: float
) -> Iterator[Callable[[], bool]]:
    """Sends `burst` at once from the machine to a device, `every` so many seconds; yields whether it asks for
    cookies now."""
    macs = MacGenerator(PublicKey.from_base64(public_key))
    messages = [
        macs.add_macs(Initiation(i, os.urandom(32), os.urandom(48), os.urandom(28)).encode(), 0.0)
        for i in range(_DIFFERENT)
    ]
    sock = machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ON_THE_WAY)
    ended = threading.Event()

    def send() -> None:
        at = 0
        while not ended.wait(every):
            for _ in range(burst):
                with contextlib.suppress(OSError):  # its buffer is full, or nobody listens
                    sock.sendto(messages[at % _DIFFERENT], address)
                at += 1

    def asks() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                if len(sock.recv(2048)) == _COOKIE_REPLY_LEN:
                    return True
        return False

    thread = threading.Thread(target=send, name="flood")
    thread.start()
    try:
        yield asks
    finally:
        ended.set()
        thread.join()
        sock.close()
