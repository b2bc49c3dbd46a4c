"""A status socket with a made-up snapshot behind it, and ravenctl as a person or a program runs it."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from raven.net.status_socket import Answer, PingRequest, Request, open_socket, serve_socket
from raven.net.unix_peer import UnixPeer
from raven.status import (
    AgentSnapshot,
    GatewaySnapshot,
    Lane,
    NodeStatus,
    PingResult,
    UplinkStatus,
    node_status,
)

RAVENCTL = [sys.executable, "-c", "from raven.cli.main import main; main()"]


@dataclass
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str = ""


def up(age: float = 3.0) -> Lane:
    return Lane(state="up", evidence_age_s=age, rtt_ms=0.4, bytes_in=1234, bytes_out=5_600_000)


def node(name: str, *, stream: Lane | None = None, packets: Lane | None = None) -> NodeStatus:
    stream = stream or up()
    return node_status(
        name,
        stream=stream,
        packets=packets or up(),
        last_seen_s=stream.evidence_age_s,
        pod_cidrs=["10.244.1.0/24", "fd00:244:1::/64"],
    )


def gateway(*nodes: NodeStatus) -> GatewaySnapshot:
    return GatewaySnapshot(
        name="gw-1",
        cluster="k3fx8w2q",
        software="0.1.0",
        pid=1,
        uptime_s=11_520.0,
        draining=False,
        advertise="gateway.example.com:443",
        listeners={"agents": "*:443", "O&M": "127.0.0.1:10264"},
        packets=up(),
        nodes=list(nodes),
        refused={"no-certificate": 2},
        problems=[],
    )


def agent(lane: Lane) -> AgentSnapshot:
    return AgentSnapshot(
        node="shop-1",
        cluster="k3fx8w2q",
        software="0.1.0",
        pid=1,
        uptime_s=90.0,
        draining=False,
        uplinks=[
            UplinkStatus(gateway="gateway.example.com:443", name="gw-1", lane=lane, streams=2, attempts=0)
        ],
        packets=Lane(state="off", detail="no right to make network devices (CAP_NET_ADMIN)"),
        pod_cidrs=[],
        allow=["node:10250"],
        refused={},
        problems=[],
    )


@asynccontextmanager
async def daemon(path: Path, snapshot: GatewaySnapshot | AgentSnapshot) -> AsyncIterator[None]:
    """Answers at `path` as a daemon would."""

    async def answer(request: Request, peer: UnixPeer) -> Answer:
        if not isinstance(request, PingRequest):
            return Answer(snapshot=snapshot)
        match request.node:
            case "shop-1":
                return Answer(ping=PingResult(node="shop-1", stream_rtt_ms=0.41, packet_rtt_ms=0.62))
            case "shop-2":
                return Answer(ping=PingResult(node="shop-2", stream_problem="no tunnel", packet_off=True))
            case name:
                return Answer(error=f"no node named {name} has joined this gateway")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_socket, open_socket(path), path, answer)
        yield
        nursery.cancel_scope.cancel()


async def ravenctl(*arguments: str | Path) -> Ran:
    """As a program runs it: into a pipe."""
    done = await trio.run_process(
        [*RAVENCTL, *map(str, arguments)], capture_stdout=True, capture_stderr=True, check=False
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


async def ravenctl_on_terminal(*arguments: str | Path, columns: int = 80) -> Ran:
    """As a person runs it: on a terminal of 80 columns."""

    def run() -> Ran:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        with subprocess.Popen(
            [*RAVENCTL, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ) as process:
            os.close(theirs)
            out = b""
            try:
                while chunk := os.read(ours, 65536):
                    out += chunk
            except OSError:  # EIO: the other side is closed
                pass
            finally:
                os.close(ours)
        return Ran(process.returncode, out.decode().replace("\r\n", "\n"))

    return await trio.to_thread.run_sync(run)
