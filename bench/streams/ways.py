"""The ways to the server at the edge that are compared: how each is set up, dialled, and what it costs.

Raven and OpenSSH are always there. The others take part where an environment variable names their programs:
KONNECTIVITY a directory with `proxy-server` and `proxy-agent`, CHISEL the program, FRP a directory with
`frps` and `frpc`.
"""

import dataclasses
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.lab import programs, raven, wires
from tests.lab.errors import LabError
from tests.lab.world import Site, World

TARGET = 7000  # TCP port of the measured server, at the edge
_FORWARDED = {
    "ssh -R": 7001,
    "ssh -R tuned": 7002,
    "chisel": 7003,
    "frp": 7004,
}  # where it appears in the cloud
_KONNECTIVITY_FRONT, _KONNECTIVITY_BACK = 7010, 7011
_CHISEL, _FRP = 7020, 7030  # where the servers of these listen for their clients
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """One contestant between the same two namespaces."""

    name: str
    dial: Callable[[], socket.socket]  # a stream to the server; called in the cloud's namespace
    roots: Sequence[int]  # processes that carry it, at both ends; their descendants count as well

    def cpu_seconds(self) -> float:
        """User and system time so far of all that carry it."""
        return sum(_cpu(pid) for pid in self._pids())

    def forget_peak(self) -> None:
        """From now on `peak_memory` counts anew."""
        for pid in self._pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_memory(self) -> float:
        """MiB resident at the most, summed over both ends; what processes share counts once for each."""
        return sum(_peak(pid) for pid in self._pids()) / 1024

    def _pids(self) -> list[int]:
        return [pid for root in self.roots for pid in _family(root)]


def build(world: World) -> list[Way]:
    """All ways that can be had, each connected and idle; the server stands behind them."""
    site = world.sites["a"]
    site.machine.start(sys.executable, "-m", "bench.traffic", str(TARGET)).ready(TARGET)
    server = programs.sshd(world.cloud)
    ways = [
        _raven(world, site),
        _ssh(world, site, server, "ssh -R"),
        _ssh(world, site, server, "ssh -R tuned"),
    ]
    for variable, build_one in (("KONNECTIVITY", _konnectivity), ("CHISEL", _chisel), ("FRP", _frp)):
        if where := os.environ.get(variable):
            ways.append(build_one(world, site, Path(where)))
    return ways


def _raven(world: World, site: Site) -> Way:
    gateway = raven.gateway(world, "--no-packets")
    gateway.start()
    gateway.ready()
    agent = raven.agent(site, "--no-packets", "--allow", f"node:{TARGET}")
    agent.join(gateway.token())
    agent.start()
    gateway.wait_for(site.name, lanes=["stream_lane"])
    host, _, port = raven.OAM.rpartition(":")
    assert gateway.process is not None
    assert agent.process is not None
    return Way(
        "Raven",
        lambda: _connect_through((host, int(port)), f"{site.name}:{TARGET}"),
        [gateway.process.pid, agent.process.pid],
    )


def _ssh(world: World, site: Site, server: programs.SshServer, name: str) -> Way:
    """`ssh -R` as it comes; tuned: AES-GCM, and a terminal, for which both ends switch Nagle off."""
    port = _FORWARDED[name]
    options = ["-R", f"127.0.0.1:{port}:127.0.0.1:{TARGET}"]
    if name == "ssh -R tuned":
        command = server.client(wires.CLOUD, "-c", "aes128-gcm@openssh.com", "-tt", *options)
        client = site.machine.start(*command, "sleep 86400", name="ssh-tuned")
    else:
        client = site.machine.start(*server.client(wires.CLOUD, "-N", *options), name="ssh-R")
    server.process.ready(port)
    # sshd forks for each client; the family of the whole server would count the other client's as well.
    return Way(name, lambda: _connect(port), [_listener(world, port), client.pid])


def _listener(world: World, port: int) -> int:
    """The process that listens on the port of the cloud's loopback."""
    said = world.cloud.run("ss", "-Hltnp", f"sport = :{port}").out
    _, found, rest = said.partition("pid=")
    if not found:
        raise LabError(f"nobody listens on port {port} of the cloud: {said!r}")
    return int(rest.partition(",")[0])


def _chisel(world: World, site: Site, program: Path) -> Way:
    server = world.cloud.start(str(program), "server", "--reverse", "-p", str(_CHISEL), name="chisel-server")
    server.ready(_CHISEL)
    port = _FORWARDED["chisel"]
    remote = f"R:127.0.0.1:{port}:127.0.0.1:{TARGET}"
    client = site.machine.start(
        str(program), "client", f"http://{wires.CLOUD}:{_CHISEL}", remote, name="chisel-client"
    )
    server.ready(port)
    return Way("chisel", lambda: _connect(port), [server.pid, client.pid])


def _frp(world: World, site: Site, directory: Path) -> Way:
    port = _FORWARDED["frp"]
    (world.cloud.directory / "frps.toml").write_text(f'bindPort = {_FRP}\nproxyBindAddr = "127.0.0.1"\n')
    (site.machine.directory / "frpc.toml").write_text(
        f'serverAddr = "{wires.CLOUD}"\nserverPort = {_FRP}\n[[proxies]]\nname = "bench"\ntype = "tcp"\n'
        f'localIP = "127.0.0.1"\nlocalPort = {TARGET}\nremotePort = {port}\n'
    )
    server = world.cloud.start(str(directory / "frps"), "-c", str(world.cloud.directory / "frps.toml"))
    server.ready(_FRP)
    client = site.machine.start(str(directory / "frpc"), "-c", str(site.machine.directory / "frpc.toml"))
    server.ready(port)
    return Way("frp", lambda: _connect(port), [server.pid, client.pid])


def _konnectivity(world: World, site: Site, directory: Path) -> Way:
    """HTTP CONNECT at the front, as an API server's egress selector asks; certificates for this run only."""
    keys = world.cloud.directory / "konnectivity"
    keys.mkdir()
    _certificates(world, keys)
    tls = [str(keys / name) for name in ("ca.crt", "cloud.crt", "cloud.key")]
    server = world.cloud.start(
        *(str(directory / "proxy-server"), "--mode=http-connect", "--server-count=1"),
        *(f"--server-port={_KONNECTIVITY_FRONT}", f"--agent-port={_KONNECTIVITY_BACK}"),
        *("--admin-port=7012", "--health-port=7013", "--server-bind-address=127.0.0.1"),
        *(f"--server-ca-cert={tls[0]}", f"--server-cert={tls[1]}", f"--server-key={tls[2]}"),
        *(f"--cluster-ca-cert={tls[0]}", f"--cluster-cert={tls[1]}", f"--cluster-key={tls[2]}"),
        name="konnectivity-server",
    )
    server.ready(_KONNECTIVITY_BACK)
    client = site.machine.start(
        *(str(directory / "proxy-agent"), f"--ca-cert={tls[0]}"),
        *(f"--agent-cert={keys / 'edge.crt'}", f"--agent-key={keys / 'edge.key'}"),
        *(f"--proxy-server-host={wires.CLOUD}", f"--proxy-server-port={_KONNECTIVITY_BACK}"),
        *("--admin-server-port=7014", "--health-server-port=7015", f"--agent-identifiers=host={site.name}"),
        name="konnectivity-agent",
    )
    server.ready(_KONNECTIVITY_FRONT)
    return Way("konnectivity", lambda: _connect_tls(keys), [server.pid, client.pid])


def _certificates(world: World, keys: Path) -> None:
    """A CA, and a certificate of it for each end, good as client and as server."""
    openssl = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = f"subjectAltName=IP:{wires.CLOUD},IP:127.0.0.1"
    ca = ("-keyout", str(keys / "ca.key"), "-out", str(keys / "ca.crt"), "-days", "2", "-subj", "/CN=ca")
    world.cloud.run(*openssl, *ca)
    for end in ("cloud", "edge"):
        files = ("-keyout", str(keys / f"{end}.key"), "-out", str(keys / f"{end}.crt"), "-days", "2")
        signed = ("-CA", str(keys / "ca.crt"), "-CAkey", str(keys / "ca.key"))
        purpose = ("-addext", names, "-addext", "basicConstraints=CA:FALSE")
        world.cloud.run(*openssl, *files, *signed, *purpose, "-subj", f"/CN={end}")


def _connect_tls(keys: Path) -> socket.socket:
    context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    context.load_cert_chain(keys / "cloud.crt", keys / "cloud.key")
    raw = _connect(_KONNECTIVITY_FRONT)
    return _ask(context.wrap_socket(raw, server_hostname="127.0.0.1"), f"127.0.0.1:{TARGET}")


def _connect(port: int) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port), timeout=20)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _connect_through(proxy: tuple[str, int], target: str) -> socket.socket:
    peer = socket.create_connection(proxy, timeout=20)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _ask(peer, target)


def _ask(peer: socket.socket, target: str) -> socket.socket:
    """A CONNECT to `target`; ConnectionError with the proxy's words when it refuses."""
    peer.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = peer.recv(1)  # the stream behind the head belongs to the server
        if not more:
            raise ConnectionError(f"the proxy said {head!r}")
        head += more
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError(f"the proxy said {head!r}")
    return peer


def _family(pid: int) -> Iterator[int]:
    """The process and all it has forked."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _peak(pid: int) -> int:
    """kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
