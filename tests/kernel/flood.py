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
_PAUSE = 0.01  # seconds between two bursts
_COOKIE_REPLY_LEN = 64  # bytes


@contextlib.contextmanager
def initiations(
    machine: Machine, public_key: str, address: tuple[str, int], *, rate: int
) -> Iterator[Callable[[], bool]]:
    """Sends at most `rate` a second from the machine to a device; yields whether it asks for cookies now."""
    macs = MacGenerator(PublicKey.from_base64(public_key))
    messages = [
        macs.add_macs(Initiation(i, os.urandom(32), os.urandom(48), os.urandom(28)).encode(), 0.0)
        for i in range(_DIFFERENT)
    ]
    sock = machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.setblocking(False)
    ended = threading.Event()

    def send() -> None:
        at = 0
        while not ended.wait(_PAUSE):
            for _ in range(int(rate * _PAUSE)):
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
