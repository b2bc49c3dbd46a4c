"""1,000 Gateways and 10,000 Nodes in a real API server: what a gateway needs to take them in, and then.

Nodes are objects of the size that real ones have; the gateway is a process of its own. Its requests are
counted by the API server's audit log.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.grid import OURS, Goal, Line
from tests.e2e_kube.controllers import objects as of
from tests.e2e_kube.controllers.api import Api
from tests.e2e_kube.controllers.objects import KubeGateway, Objects
from tests.lab.errors import LabError
from tests.lab.waiting import wait_until

GATEWAYS, NODES = 1000, 10_000
EXPOSED = 10  # of the Gateways: half by public addresses, half by load balancers
HEARTBEATS = 33  # Node writes a second: every kubelet tells its status every five minutes
STEADY = 60.0  # seconds of steady state
_WRITERS = 8
_PATIENCE = 300.0  # seconds for one reconcile of everything, on a machine however busy
_MIB = 1 << 20

_AUDIT = """
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  omitStages: [RequestReceived, ResponseComplete]
  verbs: [watch]
- level: Metadata
  omitStages: [RequestReceived, ResponseStarted]
"""


def measure() -> Iterator[Line]:
    """Builds the cluster of objects, and takes it down again."""
    cluster = Objects()
    audit = Path(f"{cluster.world.directory}-audit.log")
    policy = audit.with_suffix(".yaml")
    policy.write_text(_AUDIT)
    cluster.flags = (f"--audit-policy-file={policy}", f"--audit-log-path={audit}")
    try:
        with cluster:
            _fill(cluster)
            yield from _taken_in(cluster, audit)
    finally:
        for path in (audit, policy):
            path.unlink(missing_ok=True)


def _taken_in(cluster: Objects, audit: Path) -> Iterator[Line]:
    """The first gateway writes everything; one that is started anew has nothing to write."""
    gateway = cluster.gateway("bench")
    written = _Written(cluster)
    served, began = cluster.server.process.cpu_seconds(), time.perf_counter()
    gateway.start()
    written.wait(GATEWAYS)
    wait_until(lambda: _named(cluster) == NODES, what="the hosts file", seconds=_PATIENCE)
    took = time.perf_counter() - began
    what = f"{GATEWAYS} Gateways, {NODES} Nodes"
    yield _line(f"{what}: from the gateway's start until all is written", "s", took, 10)
    yield _line(f"{what}: CPU of the gateway until then", "s", gateway.cpu_seconds())
    used = cluster.server.process.cpu_seconds() - served
    yield _line(f"{what}: CPU of the API server until then", "s", used)
    yield _line(f"{what}: peak memory of the gateway until then", "MiB", _peak(gateway) / _MIB, 300)
    _told(audit)
    asked, cpu, began = _asked(audit), gateway.cpu_seconds(), time.perf_counter()
    beats = _beat(cluster, STEADY)
    took = time.perf_counter() - began
    rate = (_asked(audit) - asked) / took
    yield _line(f"{what}, {beats / took:.0f} heartbeats a second: requests of the gateway", "/s", rate, 1)
    share = 100 * (gateway.cpu_seconds() - cpu) / took
    yield _line(f"{what}, {beats / took:.0f} heartbeats a second: CPU of the gateway", "%", share)
    yield _line(f"{what}: peak memory of the gateway after a minute", "MiB", _peak(gateway) / _MIB, 300)
    gateway.stop()


def _line(what: str, unit: str, value: float, goal: float | None = None) -> Line:
    goals = [] if goal is None else [Goal(ratio=goal)]
    return Line(what=what, unit=unit, figures={OURS: value}, higher_is_better=False, goals=goals)


def _fill(cluster: Objects) -> None:
    _side_by_side(cluster, NODES, lambda api, number: api.create(of.NODES, _node(number)))
    _side_by_side(cluster, GATEWAYS, lambda api, number: api.create(of.GATEWAYS, _gateway(number)))


def _side_by_side(cluster: Objects, count: int, work: Callable[[Api, int], Any]) -> None:
    """`work` for each number below `count`, by some threads with a connection each."""
    own = threading.local()
    made: list[Api] = []

    def one(number: int) -> None:
        if not hasattr(own, "api"):
            own.api = cluster.api_of("admin")
            made.append(own.api)
        work(own.api, number)

    with ThreadPoolExecutor(_WRITERS) as threads:
        list(threads.map(one, range(count), chunksize=1))
    for api in made:
        api.close()


def _name(number: int) -> str:
    return f"edge-node-{number:05}"


def _node(number: int) -> dict[str, Any]:
    """A Node of some 15 KB, most of it the images that its kubelet has pulled."""
    high, low = divmod(number, 256)
    made = of.node(
        _name(number),
        f"site-{number % GATEWAYS:04}",
        address=f"10.{high}.{low}.1",
        cidrs=(f"10.{100 + high}.{low}.0/24",),
    )
    digest = "sha256:" + "0123456789abcdef" * 4
    made["status"]["images"] = [
        {"names": [f"registry.example.com/team/app-{image}@{digest}"] * 2, "sizeBytes": 1 << 20}
        for image in range(50)
    ]
    made["status"]["nodeInfo"] = {
        **dict.fromkeys(("machineID", "systemUUID", "bootID"), "0" * 32),
        **{"kernelVersion": "6.1.0", "osImage": "Linux", "containerRuntimeVersion": "containerd://1.6.20"},
        **{"kubeletVersion": "v1.20.0", "kubeProxyVersion": "v1.20.0"},
        **{"operatingSystem": "linux", "architecture": "arm64"},
    }
    return made


def _gateway(number: int) -> dict[str, Any]:
    """A site of ten nodes, two of which may carry it; a few are exposed."""
    nodes = [_name(number), _name(number + GATEWAYS)]
    if number >= EXPOSED:
        return of.gateway(
            f"site-{number:04}", *(of.tunnel(one, underNAT=True) for one in nodes), **of.TUNNELS
        )
    type = "PublicIP" if number % 2 else "LoadBalancer"
    public = [of.proxy(one, publicIP=f"198.51.{number}.{at}") for at, one in enumerate(nodes, 1)]
    spec = {"exposeType": type, "proxyConfig": {"Replicas": 2}, **of.TUNNELS}
    return of.gateway(f"site-{number:04}", *public, of.tunnel(nodes[0]), **spec)


class _Written:
    """Watches which Gateways have a status; open before the gateway starts."""

    def __init__(self, cluster: Objects) -> None:
        listed = cluster.api.get(f"{of.GATEWAYS}?limit=1")["metadata"]["resourceVersion"]
        self._names: set[str] = set()
        self._done = threading.Event()
        self._wanted = 0
        path = f"{of.GATEWAYS}?watch=true&resourceVersion={listed}&timeoutSeconds={_PATIENCE * 2:.0f}"
        self._answer = cluster.api_of("admin").stream(path)
        threading.Thread(target=self._follow, name="watch", daemon=True).start()

    def wait(self, count: int) -> None:
        """Returns when `count` have one."""
        self._wanted = count
        if len(self._names) < count and not self._done.wait(_PATIENCE):
            raise LabError(f"{len(self._names)} of {count} Gateways have a status after {_PATIENCE:g} s")
        self._answer.close()

    def _follow(self) -> None:
        try:
            for line in self._answer:
                seen: Mapping[str, Any] = json.loads(line)["object"]
                if "observedGeneration" in seen.get("status", {}):
                    self._names.add(seen["metadata"]["name"])
                    if len(self._names) == self._wanted:
                        self._done.set()
                        return
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            return  # closed under our hands


def _named(cluster: Objects) -> int:
    held = cluster.api.get(f"{of.SYSTEM}/configmaps/edge-tunnel-nodes")
    return len(held["data"]["tunnel-nodes"].splitlines()) if held else 0


def _beat(cluster: Objects, seconds: float) -> int:
    """Kubelets tell that they are there, spread over time as they are; how many did."""
    until = time.perf_counter() + seconds
    api, count = cluster.api_of("admin"), 0
    began = time.perf_counter()
    while time.perf_counter() < until:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": stamp}
        api.merge(f"{of.NODES}/{_name(count % NODES)}/status", {"status": {"conditions": [ready]}})
        count += 1
        time.sleep(max(0.0, began + count / HEARTBEATS - time.perf_counter()))
    api.close()
    return count


def _asked(audit: Path, about: str = "") -> int:
    """Requests of the gateway so far; those with `about` in their line."""
    lines: Sequence[str] = audit.read_text(errors="replace").splitlines()
    return sum('"userAgent":"raven/' in line and about in line for line in lines)


def _told(audit: Path) -> None:
    """Returns when the last Event about what was done has been told: they go out one after the other."""
    told, until = -1, time.monotonic() + _PATIENCE
    while (now := _asked(audit, '"resource":"events"')) != told and time.monotonic() < until:
        told = now
        time.sleep(5)


def _peak(gateway: KubeGateway) -> int:
    """Bytes, the most that the process ever had resident."""
    assert gateway.process is not None
    for line in Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LabError("the gateway has ended")
