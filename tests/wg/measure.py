"""What a device costs without any I/O: `python -m tests.wg.measure`. No test; numbers for whoever changes it.

Prints nanoseconds per packet, best and median burst, for bursts as an engine sees them; handshakes a second
as responder; and bytes of memory per connected idle peer.
"""

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address

from raven.wg.configuration import DeviceChange
from raven.wg.endpoint import Endpoint
from tests.wg.packets import packet
from tests.wg.pair import Net, pair

A4, B4 = "10.0.0.1", "10.0.0.2"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def timed(action: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    action()
    return time.perf_counter_ns() - start


def bursts(count: int, size: int) -> None:
    net, a, b = pair()
    a.send([packet(A4, B4)])
    net.run(1)
    packets = [packet(A4, B4, size, fill=i) for i in range(count)]
    out, in_ = [], []
    for _ in range(max(200, 8000 // count)):
        out.append(timed(lambda: a.device.send(packets, net.now)))
        for transmit in a.device.transmits():
            data, step = memoryview(transmit.data), transmit.segment_size
            datagrams = [data[start : start + step] for start in range(0, len(data), step)]
            in_.append(timed(lambda d=datagrams: b.device.receive(d, a.endpoint, net.now)))  # type: ignore[misc]
            assert len(b.device.packets()) == len(datagrams)
    figures = [f(times) / count for times in (out, in_) for f in (min, statistics.median)]
    say(f"{count:6} {size:6}   " + " ".join(f"{figure:9.0f}" for figure in figures))


def handshakes(count: int) -> None:
    """`count` peers that initiate once each, at a device that would ask for cookies were it not for this."""
    net = Net(1)
    hub = net.host(Endpoint("192.0.2.1", 1), [])
    messages = []
    for i in range(count):
        spoke = net.host(Endpoint("192.0.2.2", 2 + i), [str(IPv4Address("10.0.0.0") + i)])
        hub.add_peer(spoke, knows_endpoint=False)
        spoke.add_peer(hub, keepalive=25)
        messages.append([memoryview(t[3]) for t in net.sent[-1:]])
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    for i, message in enumerate(messages):
        hub.device.receive(message, net.hosts[1 + i].endpoint, i * 0.01)
    elapsed = time.perf_counter() - start
    assert len(hub.device.transmits()) == count
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 // count
    say(f"\nhandshakes as responder: {count / elapsed:.0f} /s; {grown} bytes of keys for each")
    start = time.perf_counter()
    hub.device.configure(DeviceChange(private_key=net.hosts[1].private_key), 100.0)
    say(f"a new private key with {count} peers: {(time.perf_counter() - start) * 1000:.1f} ms")


if __name__ == "__main__":
    say(" burst   size   out best    median   in best    median   (ns per packet)")
    for count in (44, 20, 8, 2, 1):
        bursts(count, 1420)
    for size in (1419, 576, 64):
        bursts(44, size)
    handshakes(1000)
