"""The real daemons as processes on loopback, without the packet lane: for tests of what they do as a whole.

Readiness is heard, not guessed: each daemon gets a NOTIFY_SOCKET of its own.
"""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from raven.net.status_socket import PingRequest, SnapshotRequest, ask
from raven.status import AgentSnapshot, GatewaySnapshot, NodeStatus, PingResult

T = TypeVar("T")

START_MAX = 20.0  # seconds; an import of everything takes one on a busy machine
GATEWAY = [sys.executable, "-c", "from gateway.main import main; main()"]
AGENT = [sys.executable, "-c", "from agent.main import main; main()"]


@dataclass
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


async def command(program: Sequence[str], *arguments: object, stdin: bytes = b"") -> Ran:
    """Runs a command that ends by itself."""
    with trio.fail_after(START_MAX):
        done = await trio.run_process(
            [*program, *map(str, arguments)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=stdin,
        )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def free_port() -> int:
    """A TCP port of loopback that nobody uses now, below those that the kernel gives to connections."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


@dataclass(eq=False)
class Daemon:
    """A daemon that runs."""

    process: trio.Process
    socket: Path
    log: Path
    _notifications: trio.socket.SocketType

    async def notified(self, text: str, *, seconds: float = START_MAX) -> str:
        """The first message to systemd from now on that contains `text`."""
        with trio.move_on_after(seconds):
            while True:
                message = (await self._notifications.recv(4096)).decode()
                if text in message:
                    return message
        raise AssertionError(
            f"no {text} within {seconds:g} s; its log ends with {self.log.read_text()[-2000:]}"
        )

    async def gateway_snapshot(self) -> GatewaySnapshot:
        answer = await ask(self.socket, SnapshotRequest())
        assert isinstance(answer.snapshot, GatewaySnapshot), answer
        return answer.snapshot

    async def agent_snapshot(self) -> AgentSnapshot:
        answer = await ask(self.socket, SnapshotRequest())
        assert isinstance(answer.snapshot, AgentSnapshot), answer
        return answer.snapshot

    async def node(self, name: str) -> NodeStatus:
        return {node.name: node for node in (await self.gateway_snapshot()).nodes}[name]

    async def ping(self, name: str) -> PingResult:
        answer = await ask(self.socket, PingRequest(node=name))
        assert answer.ping is not None, answer
        return answer.ping

    async def refused(self, reason: str, count: int = 1) -> None:
        """Returns once the gateway has turned away `count` connections for `reason`."""
        await until(
            self.gateway_snapshot, lambda now: now.refused.get(reason, 0) >= count, f"refusal {reason}"
        )

    async def connected(self, name: str, *, yes: bool = True, seconds: float = START_MAX) -> NodeStatus:
        """The node's status once it is connected, or is not."""
        what = f"{name} to be {'connected' if yes else 'gone'}"
        return await until(lambda: self.node(name), lambda node: node.connected is yes, what, seconds=seconds)

    def resident(self) -> int:
        """Bytes of memory it occupies now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )

    def mapped(self) -> str:
        """The files it has mapped, extension modules among them."""
        return Path(f"/proc/{self.process.pid}/maps").read_text()

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 20.0) -> int:
        """The exit code after the signal."""
        self.process.send_signal(number)
        with trio.fail_after(seconds):
            return await self.process.wait()


async def until(
    read: Callable[[], Awaitable[T]], good: Callable[[T], bool], what: str, *, seconds: float = START_MAX
) -> T:
    """The first value of `read` that is good; looks again every 20 ms, for what no event tells."""
    last: T | None = None
    with trio.move_on_after(seconds):
        while True:
            if good(last := await read()):
                return last
            await trio.sleep(0.02)
    raise AssertionError(f"after {seconds:g} s still waiting for {what}; last: {last}")


@asynccontextmanager
async def running(
    program: Sequence[str],
    directory: Path,
    *arguments: object,
    name: str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Daemon]:
    """Runs the daemon until the block ends; what is left of it then is killed."""
    notifications = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = directory / f"{name}.notify"
    path.unlink(missing_ok=True)
    await notifications.bind(str(path))
    path.chmod(0o666)
    log = directory / f"{name}.log"
    status = directory / f"{name}.sock"
    fixed = ["--socket", status, "--metrics-listen", "off", "--log-level", "debug"]
    with log.open("ab") as output:
        process = await trio.lowlevel.open_process(
            [str(word) for word in (*program, "run", *fixed, *arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NOTIFY_SOCKET": str(path), **(environment or {})},
        )
    daemon = Daemon(process, status, log, notifications)
    try:
        yield daemon
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        notifications.close()


@dataclass
class Loopback:
    """A gateway's addresses and state, whether it runs or not."""

    directory: Path
    agents: str
    oam: str
    name: str = "gw-1"

    @property
    def state(self) -> Path:
        return self.directory / ("gateway" if self.name == "gw-1" else self.name)

    def options(self) -> list[object]:
        listen = ["--agents-listen", self.agents, "--advertise", self.agents, "--oam-listen", self.oam]
        named = (
            ["--name", self.name, "--cluster", "test"] if self.name == "gw-1" else []
        )  # others know theirs
        return ["--state-dir", self.state, *listen, *named, "--no-packets"]

    @asynccontextmanager
    async def gateway(self, *arguments: object) -> AsyncIterator[Daemon]:
        """The gateway, ready."""
        name = self.state.name
        async with running(GATEWAY, self.directory, *self.options(), *arguments, name=name) as daemon:
            await daemon.notified("READY=1")
            yield daemon

    async def token(self, *arguments: object) -> str:
        ran = await command(GATEWAY, "token", "create", "--state-dir", self.state, *arguments)
        assert (ran.code, ran.err) == (0, "")
        return ran.out.removesuffix("\n")

    async def follower(self, name: str) -> "Loopback":
        """One more gateway, joined at this one, not running."""
        other = Loopback(self.directory, free_address(), free_address(), name)
        ran = await command(
            GATEWAY,
            *("join", "--state-dir", other.state, "--gateway", self.agents, "--name", name),
            *("--advertise", other.agents, "--token", "-"),
            stdin=(await self.token("--gateway", name)).encode(),
        )
        assert ran.code == 0, ran.err
        return other

    async def join(self, node: str) -> None:
        ran = await command(
            AGENT,
            *("join", "--state-dir", self.directory / node, "--gateway", self.agents),
            *("--node", node, "--token", "-"),
            stdin=(await self.token()).encode(),
        )
        assert ran.code == 0, ran.err

    @asynccontextmanager
    async def agent(self, node: str, *arguments: object) -> AsyncIterator[Daemon]:
        """The agent of a node that has joined, ready; not necessarily connected."""
        options = ["--state-dir", self.directory / node, "--no-packets", *arguments]
        async with running(AGENT, self.directory, *options, name=f"agent-{node}") as daemon:
            await daemon.notified("READY=1")
            yield daemon

    async def connect(self, target: str) -> tuple[trio.SocketStream, bytes]:
        """A stream through the gateway's proxy, and the head of its answer."""
        stream = await trio.open_tcp_stream("127.0.0.1", int(self.oam.rpartition(":")[2]))
        await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        with trio.fail_after(15):
            while b"\r\n\r\n" not in head:
                chunk = await stream.receive_some()
                assert chunk, head
                head += chunk
        return stream, head


def loopback(directory: Path) -> Loopback:
    return Loopback(directory, free_address(), free_address())


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A target on this machine that gives back what it gets; its port."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                async for data in stream:
                    await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
