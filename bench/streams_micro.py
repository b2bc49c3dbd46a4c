"""One stream through splice, tunnel and TLS alone: no HTTP, no namespaces, so that a profiler sees this code.

    client ── near: TCP, splice, Tunnel ── TLS ── far: Tunnel, splice, TCP ── server

python -m bench.streams_micro [--seconds S] [--profile]
"""

import argparse
import cProfile
import os
import pstats
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from bench import traffic
from raven.net.splice import splice
from raven.net.tls_stream import client_handshake, prepare_socket, server_handshake
from raven.net.tunnel import IncomingStream, Tunnel, TunnelLost
from tests.net.loopback import contexts

_SERVER, _NEAR, _TUNNEL = 17000, 17001, 17002  # ports on loopback
_CONNECTS = 600


async def near() -> None:
    """The gateway's part: takes the agent's tunnel, then clients."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(_TUNNEL, host="127.0.0.1")
        async with listener:
            transport = await server_handshake(await listener.accept(), contexts()[1])
        tunnel = Tunnel(transport, initiator=False, peer="far")
        await nursery.start(tunnel.run, None)

        async def serve(client: trio.SocketStream) -> None:
            await splice(client, await tunnel.open_stream(b""))

        await trio.serve_tcp(serve, _NEAR, host="127.0.0.1")


async def far() -> None:
    """The agent's part: dials the tunnel, then whatever is asked for."""

    async def accept(incoming: IncomingStream) -> None:
        target = await trio.open_tcp_stream("127.0.0.1", _SERVER)
        await splice(await incoming.accept(), target)

    transport = await client_handshake(await trio.open_tcp_stream("127.0.0.1", _TUNNEL), contexts()[0])
    await Tunnel(transport, initiator=True, peer="near").run(accept)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.streams_micro")
    parser.add_argument("part", nargs="?", choices=["near", "far"], help="used by the benchmark itself")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.part:
        _run_part(near if options.part == "near" else far, options.profile)
        return
    with _process("-m", "bench.traffic", str(_SERVER)) as server:
        profile = ["--profile"] * options.profile
        with _process("-m", __spec__.name, "near", *profile) as one:
            _wait(_TUNNEL)
            with _process("-m", __spec__.name, "far", *profile) as two:
                _measure(options.seconds, {"near": one.pid, "far": two.pid, "server": server.pid})


def _run_part(part: object, profile: bool) -> None:
    profiler = cProfile.Profile()
    try:
        if profile:
            profiler.enable()
        trio.run(part)  # type: ignore[arg-type]  # one of the two coroutine functions above
    except* (KeyboardInterrupt, TunnelLost):
        pass
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(35)


@contextmanager
def _process(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, *arguments], start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def _wait(port: int) -> None:
    """Until somebody listens; looks only, because the tunnel's listener takes one connection."""
    wanted = f":{port:04X} 00000000:0000 0A"
    for _ in range(200):
        with open("/proc/net/tcp") as table:
            if any(wanted in line for line in table):
                return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on {port}")


def _connect() -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", _NEAR))
    prepare_socket(peer)
    return peer


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _measure(seconds: float, pids: dict[str, int]) -> None:
    _wait(_NEAR)
    _wait(_SERVER)
    with _connect() as peer:  # until the tunnel stands
        traffic.echo(peer)
    for what, transfer in (("far to near", traffic.download), ("near to far", traffic.upload)):
        before = {name: _cpu(pid) for name, pid in pids.items()}
        own = resource.getrusage(resource.RUSAGE_SELF)
        began = time.perf_counter()
        with _connect() as peer:
            rate = transfer(peer, seconds)
        gib = rate * 1e9 / 8 * (time.perf_counter() - began) / 2**30
        used = {name: (_cpu(pid) - before[name]) / gib for name, pid in pids.items()}
        after = resource.getrusage(resource.RUSAGE_SELF)
        used["client"] = (after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime) / gib
        costs = ", ".join(f"{name} {cost:.2f}" for name, cost in used.items())
        print(f"{what}: {rate:.2f} Gb/s, {rate * 1e9 / 8 / 2**20:.0f} MiB/s; CPU s/GiB {costs}")
    taken = []
    before = {name: _cpu(pid) for name, pid in pids.items()}
    for _ in range(_CONNECTS):
        began = time.perf_counter()
        with _connect() as peer:
            traffic.echo(peer)
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    costs = ", ".join(f"{n} {(_cpu(pid) - before[n]) * 1000 / _CONNECTS:.2f}" for n, pid in pids.items())
    times = f"p50 {taken[_CONNECTS // 2]:.2f} ms, p99 {taken[-4]:.2f} ms"
    print(f"new connection to first byte: {times}; CPU ms {costs}")


if __name__ == "__main__":
    main()
