"""5,000 half-open connections at the agents' port, from 100 networks, and an agent that comes all the same.

cloud (gateway) ── internet ── nat-b ── site-b, whose agent starts meanwhile
                      └── the flood: 100 networks, 50 connections each, dialled again as they end
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Lab
from tests.lab import raven, wires
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

NETWORKS = 100
EACH = 50  # connections of one network
GROWTH_MAX = 64 << 20  # bytes of memory of the gateway, for all of it
CONNECT_MAX = 10.0  # seconds until the agent's tunnel is up; a start takes one, and a refusal costs a wait

AGAIN = 5.0  # seconds until a connection that ended is dialled again
SETTLE = 6.0  # seconds of flood before anything is asked: more than a silent connection gets

# Keeps its connections open as long as it lives: half of them say nothing, half begin a handshake.
FLOOD = f"""
import resource, select, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
poll, held, ended = select.epoll(), {{}}, []
HELD = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
def dial(number):
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((f"10.66.{{number % {NETWORKS}}}.1", 0))
    sock.connect_ex((host, port))
    held[sock.fileno()] = (sock, number)
    poll.register(sock, HELD | (select.EPOLLOUT if number % 2 else 0))
for number in range({NETWORKS * EACH}):
    dial(number)
print("dialled", len(held), flush=True)
while True:
    for fd, events in poll.poll(0.2):
        sock, number = held[fd]
        if events & HELD:
            poll.unregister(sock)
            del held[fd]
            sock.close()
            ended.append((time.monotonic() + {AGAIN}, number))
        elif events & select.EPOLLOUT:
            poll.modify(sock, HELD)
            try:
                sock.send(b"\\x16\\x03\\x01\\x02\\x00\\x01\\x00")
            except OSError:
                pass
    while ended and ended[0][0] < time.monotonic():
        dial(ended.pop(0)[1])
"""


@contextmanager
def flooded(lab: Lab) -> Iterator[None]:
    """The flood runs while the block does."""
    internet = lab.world.internet
    script = Path(internet.directory, "flood.py")
    script.write_text(FLOOD)
    addresses = [f"10.66.{number}.1/32 dev lo" for number in range(NETWORKS)]
    wires.ip([f"address add {address}" for address in addresses], namespace=internet.namespace)
    host, _, port = raven.AGENTS.rpartition(":")
    flood = internet.start("python3", str(script), host, port, name="flood")
    try:
        wait_until(lambda: "dialled" in flood.text(), what="the flood", seconds=30)
        yield
        assert flood.alive, flood.text()
    finally:
        flood.stop(2)
        wires.ip([f"address del {address}" for address in addresses], namespace=internet.namespace)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_agent_connects_during_a_flood(lab: Lab) -> None:
    assert lab.gateway.process is not None
    before = resident(lab.gateway.process.pid)
    agent = lab.agents["b"]
    agent.stop()
    with flooded(lab):
        time.sleep(SETTLE)  # so that the places are as full as they get; nothing is synchronised by it
        began = time.monotonic()
        agent.start()
        lab.gateway.wait_for("site-b", lanes=["stream_lane"], seconds=30)
        took = time.monotonic() - began
        assert lab.gateway.status_of("http://site-a:8080/name") == (200, "site-a")
        assert lab.gateway.status_of("http://site-b:8080/name") == (200, "site-b")
        refused = lab.gateway.ctl_json("status")["refused"]
    assert took < CONNECT_MAX, refused
    turned_away = ("silent", "refused-early", "displaced", "too-many-from-network", "tls-timeout")
    assert sum(refused.get(reason, 0) for reason in turned_away) > NETWORKS * EACH // 2
    assert resident(lab.gateway.process.pid) - before < GROWTH_MAX
    lab.gateway.wait_for("site-a", "site-b")
