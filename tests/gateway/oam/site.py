"""A proxy with nodes behind it, all in this process: real TCP to the asker and to the targets, real tunnels.

asker -- TCP on loopback -- HttpProxy -- Tunnel over a socket pair -- Dialer -- TCP on loopback -- target
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from agent.dialer import Dialer
from gateway.oam.connect import HttpProxy
from gateway.oam.requests import EACH_MAX, Requests
from gateway.tunnels import Offline
from raven.control.messages import OpenRequest, encode
from raven.net.tcp import peer_of
from raven.net.tunnel import Priority, Tunnel, TunnelLost
from raven.oam.asker import Asker, asker_from_address
from raven.oam.audit import AuditLine
from raven.oam.permits import default_policy
from raven.oam.policy import Allow

Serve = Callable[[trio.SocketStream], Awaitable[None]]
NOW = 1_700_000_000.0


@dataclass(eq=False)
class Node:
    """A connected node, as the proxy sees it."""

    node: str
    tunnel: Tunnel
    dialer: Dialer
    software: str = "test"
    pod_cidrs: Sequence[str] = ("10.1.0.0/24",)

    async def open_stream(self, request: OpenRequest, priority: Priority) -> trio.abc.HalfCloseableStream:
        return await self.tunnel.open_stream(encode(request), priority=priority)


class Site:
    """What a test can look at."""

    def __init__(self, *, each_max: int = EACH_MAX) -> None:
        self.audit: list[AuditLine] = []
        self.nodes: dict[str, Node] = {}
        self.offline: dict[str, Offline] = {}
        self.addresses: dict[str, list[str]] = {}  # names of the nodes at an address
        self.policy = default_policy()
        self.standing: Callable[[Asker], None] = lambda asker: None
        self.requests = Requests(
            tunnels=self,
            audit=self,
            policy=lambda: self.policy,
            standing=lambda asker: self.standing(asker),
            wall=lambda: NOW,
            each_max=each_max,
        )
        self.proxy = HttpProxy(requests=self.requests)
        self.port = 0  # of the proxy
        self._audited = trio.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # What the proxy needs
    def lookup(self, name: str) -> Node | Offline | None:
        return self.nodes.get(name) or self.offline.get(name)

    def nodes_at(self, address: str) -> Sequence[str]:
        return self.addresses.get(address, [])

    def connected(self) -> Sequence[Node]:
        return list(self.nodes.values())

    def record(self, line: AuditLine) -> None:
        self.audit.append(line)
        self._audited.set()
        self._audited = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        address, host = peer_of(stream)
        await self.proxy.serve(stream, asker_from_address(address, host))

    # What a test needs
    async def dial(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def lines(self, count: int) -> list[AuditLine]:
        """The audit, once it has `count` lines."""
        with trio.fail_after(5):
            while len(self.audit) < count:
                await self._audited.wait()
        return self.audit

    async def ask(self, data: bytes) -> bytes:
        """Everything the proxy answers until it closes; the asker keeps its own side open."""
        async with await self.dial() as stream:
            await stream.send_all(data)
            return await read_all(stream)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    with trio.fail_after(30):
        while data := await stream.receive_some():
            received += data
    return received


async def read_head(stream: trio.abc.ReceiveStream) -> bytes:
    """What arrives until a head is whole, and perhaps some of what follows it."""
    received = b""
    with trio.fail_after(30):
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some()
    return received


async def read_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    """What arrives up to and with `end`, which must be the last that does."""
    received = b""
    with trio.fail_after(30):
        while not received.endswith(end):
            data = await stream.receive_some()
            assert data, f"EOF after {received!r}"
            received += data
    return received


@asynccontextmanager
async def site(
    *, allow: Sequence[str] = ("node:*",), nodes: Sequence[str] = ("edge1",)
) -> AsyncIterator[Site]:
    async with trio.open_nursery() as nursery:
        made = Site()
        made.port = await nursery.start(serve_tcp, made.serve)
        for name in nodes:
            made.nodes[name] = await connect_node(nursery, name, allow)
        yield made
        nursery.cancel_scope.cancel()


async def connect_node(nursery: trio.Nursery, name: str, allow: Sequence[str]) -> Node:
    ours, theirs = trio.socket.socketpair()
    dialer = Dialer(Allow.parse(allow))
    left = Tunnel(trio.SocketStream(ours), initiator=False, peer=name)
    right = Tunnel(trio.SocketStream(theirs), initiator=True, peer="gateway")

    async def run(
        tunnel: Tunnel,
        accept: Dialer | None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with suppress(TunnelLost):
            await tunnel.run(accept.serve if accept else None, task_status=task_status)

    await nursery.start(run, left, None)
    await nursery.start(run, right, dialer)
    return Node(name, left, dialer)


async def serve_tcp(serve: Serve, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    """Serves on a port of loopback, and reports which."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        task_status.started(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def target(serve: Serve) -> AsyncIterator[int]:
    """A target on loopback; gives its port. What a test cuts off is no failure of the target."""

    async def guarded(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                await serve(stream)

    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(serve_tcp, guarded)
        yield port
        nursery.cancel_scope.cancel()


@dataclass
class Curl:
    """What curl came back with."""

    code: int
    out: bytes
    err: str


async def curl(*arguments: object, stdin: bytes = b"") -> Curl:
    """Runs curl as a user would, without this machine's own proxy settings."""
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    with trio.fail_after(20):
        ran = await trio.run_process(
            ["curl", "-sS", "--max-time", "15", *map(str, arguments)],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=clean,
        )
    return Curl(ran.returncode, ran.stdout, ran.stderr.decode())


def get(url: str, *headers: bytes) -> bytes:
    return (
        b"GET "
        + url.encode()
        + b" HTTP/1.1\r\nHost: x\r\n"
        + b"".join(h + b"\r\n" for h in headers)
        + b"\r\n"
    )


def answering(answer: bytes, seen: list[bytes] | None = None) -> Serve:
    """A target that reads one head, says `answer`, and closes."""

    async def serve(stream: trio.SocketStream) -> None:
        head = await read_until(stream, b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        await stream.send_all(answer)

    return serve


OK = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
