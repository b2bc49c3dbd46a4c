"""The load: askers of every kind at once, polite, slow, rude and wrong. Each function is one short visit.

What a visit got is checked; a wrong byte or a refusal that should not be is a LabError. An uplink that is cut
for a while is no excuse: streams outlive their transport, and requests and pings made meanwhile wait.
"""

import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from bench import traffic
from tests.lab import programs, raven
from tests.lab.errors import LabError
from tests.lab.world import Site, World

PORT = 7000  # of bench.traffic at each site
PIECE = 1 << 20  # bytes of one checked exchange
_LINGER_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close that resets

Visit = Callable[[World, Site, random.Random], None]


def connect(world: World, target: str, *, seconds: float = 15) -> socket.socket:
    """A stream through the gateway's proxy; ConnectionError with its status line when it refuses."""
    host, _, port = raven.OAM.rpartition(":")
    peer = world.cloud.inside(lambda: socket.create_connection((host, int(port)), timeout=seconds))
    peer.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = peer.recv(1)
        if not more:
            raise ConnectionError(f"the gateway closed after {head!r}")
        head += more
    if b" 200 " not in head.partition(b"\r\n")[0]:
        peer.close()
        raise ConnectionError(head.partition(b"\r\n")[0].decode())
    return peer


def keystrokes(world: World, site: Site, chance: random.Random) -> None:
    with connect(world, f"{site.name}:{PORT}") as peer:
        traffic.round_trips(peer, chance.uniform(0.1, 1.0), 0.01)


def exchange(world: World, site: Site, chance: random.Random) -> None:
    """Random bytes to the echo server and back, compared by their hash."""
    content = chance.randbytes(chance.randrange(1, PIECE))
    with connect(world, f"{site.name}:{PORT}") as peer:
        peer.sendall(b"b" + struct.pack("!Q", len(content)))
        sender = threading.Thread(target=peer.sendall, args=(content,))
        sender.start()
        digest = hashlib.sha256()
        left = len(content)
        while left and (more := peer.recv(min(left, 1 << 18))):
            digest.update(more)
            left -= len(more)
        sender.join()
    if left or digest.digest() != hashlib.sha256(content).digest():
        raise LabError(f"{site.name}: {len(content)} bytes came back wrong, {left} missing")


def bulk(world: World, site: Site, chance: random.Random) -> None:
    with connect(world, f"{site.name}:{PORT}") as peer:
        chance.choice((traffic.download, traffic.upload))(peer, chance.uniform(0.2, 1.0))


def rude(world: World, site: Site, chance: random.Random) -> None:
    """Leaves in the middle of a download, by a close or by a reset."""
    with connect(world, f"{site.name}:{PORT}") as peer:
        peer.sendall(b"d")
        peer.recv(chance.randrange(1, 1 << 20))
        if chance.random() < 0.5:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def slow(world: World, site: Site, chance: random.Random) -> None:
    """Reads a download so slowly that every buffer on the way fills."""
    with connect(world, f"{site.name}:{PORT}") as peer:
        peer.sendall(b"d")
        for _ in range(10):
            peer.recv(4096)
            time.sleep(0.1)


def wrong(world: World, site: Site, chance: random.Random) -> None:
    """Targets that are refused, and heads that are none."""
    for target in (f"{site.name}:1", "nobody:22", f"{site.name}:99999"):
        with contextlib.suppress(ConnectionError):
            connect(world, target).close()
            raise LabError(f"a request to {target} was let through")
    host, _, port = raven.OAM.rpartition(":")
    with world.cloud.inside(lambda: socket.create_connection((host, int(port)), timeout=5)) as peer:
        endless = b"GET / HTTP/1.1\r\nHost: x\r\nA: " + bytes(100_000)
        with contextlib.suppress(OSError):
            peer.sendall(chance.choice((b"GARBAGE\r\n\r\n", endless)))
            while peer.recv(4096):
                pass


def stranger(world: World, site: Site, chance: random.Random) -> None:
    """Knocks at the agents' port with garbage, or says nothing and leaves."""
    host, _, port = raven.AGENTS.rpartition(":")
    peer = world.internet.inside(lambda: socket.create_connection((host, int(port)), timeout=5))
    with peer, contextlib.suppress(OSError):
        peer.sendall(chance.randbytes(chance.randrange(0, 2000)))
        peer.settimeout(0.5)
        peer.recv(4096)


def packets(world: World, site: Site, chance: random.Random) -> None:
    programs.ping_until(world.cloud_pod, site.pod_address, seconds=15)


VISITS: Sequence[Visit] = (keystrokes, exchange, exchange, bulk, rude, slow, wrong, stranger, packets)


class Crowd:
    """Visitors that come one after the other in several threads until told to stop."""

    def __init__(self, world: World, *, seed: int, visitors: int = 8) -> None:
        self.came: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._visit, args=(world, random.Random(seed * 1000 + number)))
            for number in range(visitors)
        ]
        for thread in self._threads:
            thread.start()

    def _visit(self, world: World, chance: random.Random) -> None:
        while not self._stop.is_set():
            visit = chance.choice(VISITS)
            site = chance.choice(list(world.sites.values()))
            try:
                visit(world, site, chance)
                self.came[visit.__name__] += 1
            except (OSError, LabError, struct.error) as error:
                self.failed[f"{visit.__name__}: {error}"] += 1

    def leave(self) -> None:
        """Returns when every visitor has gone."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                raise LabError("a visitor hangs")
