"""What is measured of one way: each function takes a few seconds and gives one sample."""

import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

from bench import traffic
from bench.streams.summary import first_byte
from bench.streams.ways import Way
from tests.lab.world import World

SECONDS = 2.0  # of each transfer
STREAMS = 8
CONNECTS = 100
PAUSE = 0.002  # seconds between two single bytes
_GIB_PER_GB = 1e9 / 8 / 2**30
_MIB_PER_GB = 1e9 / 8 / 2**20

Transfer = Callable[[socket.socket, float], float]  # Gb/s


def one_stream(world: World, way: Way, transfer: Transfer) -> tuple[float, float]:
    """MiB/s, and CPU seconds of the way's processes for a GiB."""
    with world.cloud.inside(way.dial) as peer:
        before, began = way.cpu_seconds(), time.perf_counter()
        rate = transfer(peer, SECONDS)
        spent, passed = way.cpu_seconds() - before, time.perf_counter() - began
    return rate * _MIB_PER_GB, spent / (rate * passed * _GIB_PER_GB)


def many_streams(world: World, way: Way, transfer: Transfer) -> tuple[float, float]:
    """MiB/s of all together, and the slowest stream's share of the fastest."""
    rates: list[float] = []
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(world.cloud.inside(way.dial)) for _ in range(STREAMS)]

        def run(peer: socket.socket) -> None:
            rates.append(transfer(peer, SECONDS))

        threads = [threading.Thread(target=run, args=(peer,)) for peer in peers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(rates) < STREAMS:
        raise ConnectionError(f"{way.name}: {STREAMS - len(rates)} of {STREAMS} streams broke")
    return sum(rates) * _MIB_PER_GB, min(rates) / max(rates)


def first_bytes(world: World, way: Way) -> list[float]:
    """Milliseconds from connect() to the first byte, one stream after the other."""
    return world.cloud.inside(lambda: [first_byte(way) for _ in range(CONNECTS)])


def round_trips(world: World, way: Way) -> list[float]:
    """Milliseconds of single bytes there and back on an idle way."""
    with world.cloud.inside(way.dial) as peer:
        return traffic.round_trips(peer, SECONDS, PAUSE)


def round_trips_beside_download(world: World, way: Way) -> list[float]:
    """The same while another stream of the way downloads as fast as it can."""
    with world.cloud.inside(way.dial) as peer, _downloading(world, way, 1):
        return traffic.round_trips(peer, SECONDS, PAUSE)


def beside_stalled_reader(world: World, way: Way) -> float:
    """A download's rate while another one is not read, as a share of its rate alone; 0 when it hangs too."""
    alone, _ = one_stream(world, way, traffic.download)
    with world.cloud.inside(way.dial) as stalled:
        stalled.sendall(b"d")
        time.sleep(1.0)  # until every buffer on the way is full
        try:
            with world.cloud.inside(way.dial) as peer:
                peer.settimeout(3.0)
                return traffic.download(peer, SECONDS) * _MIB_PER_GB / alone
        except (TimeoutError, ConnectionError):
            return 0.0


def half_close(world: World, way: Way) -> float:
    """1 when the server hears our end and its answer still comes back, otherwise 0."""
    with world.cloud.inside(way.dial) as peer:
        peer.settimeout(3.0)
        try:
            return 1.0 if traffic.half_close(peer) == 5 else 0.0
        except (OSError, struct.error):
            return 0.0


def peak_memory(world: World, way: Way) -> float:
    """MiB of both ends at the most, while eight streams download."""
    way.forget_peak()
    with _downloading(world, way, STREAMS):
        time.sleep(SECONDS)
    return way.peak_memory()


@contextlib.contextmanager
def _downloading(world: World, way: Way, streams: int) -> Iterator[None]:
    """Downloads in the background until the block ends."""
    stop = threading.Event()

    def run(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                traffic.download(peer, 0.2)

    peers = [world.cloud.inside(way.dial) for _ in range(streams)]
    threads = [threading.Thread(target=run, args=(peer,)) for peer in peers]
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # or the reader of bulk would hold up the clock of single bytes for 5 ms
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)  # until windows have grown
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for peer in peers:
            peer.close()
        sys.setswitchinterval(before)
