"""The transcript in docs/kubernetes-transcript.md: kubectl's own words, while the cloud cannot dial an edge.

Each entry is run for real and printed as it came; the page is written only when every command has ended as it
should. `python -m tests.e2e_kube.transcript` prints it, `--write` renews the page.
"""

import json
import re
import shlex
import sys
import time
from pathlib import Path

from tests.e2e_kube import binaries, metrics_server, pods, ways
from tests.e2e_kube.client import Client
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.raven import up
from tests.e2e_kube.terminal import Running
from tests.lab import wires
from tests.lab.errors import LabError
from tests.lab.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes-transcript.md"
_COLUMNS = (
    "NODE:.metadata.name,ADDRESS:.status.addresses[0].address,KUBELET:.status.nodeInfo.kubeletVersion,"
    "RUNTIME:.status.nodeInfo.containerRuntimeVersion"
)
_OPENING = """\
# kubectl through Raven, as it was printed

Two nodes at two sites, both with the address 192.168.1.10, each behind a NAT that lets nothing in; a real
kube-apiserver {version} whose way to the kubelets is Raven's entry by name (`--names-listen`). Written by
`make transcript`, which runs every line; [kubernetes.md](kubernetes.md) says how to set it up.
"""


class Transcript:
    """Commands and what they printed, in order."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.lines: list[str] = []

    def section(self, title: str) -> None:
        self.lines += ["", f"## {title}", ""]

    def shown(self, command: str, output: str) -> None:
        self.lines += [f"    $ {line}" for line in command.splitlines()]
        self.lines += [f"    {line}".rstrip() for line in output.rstrip("\n").splitlines()]

    def kubectl(self, line: str, *, code: int = 0, seconds: float = 60, text: str | None = None) -> str:
        """Runs `kubectl LINE` and writes it down; LabError unless it ends with `code`."""
        ran = self._server.kubectl(*shlex.split(line), check=False, seconds=seconds, text=text)
        if ran.code != code:
            raise LabError(f"kubectl {line}: ended with {ran.code}, expected {code}: {ran.out}{ran.err}")
        self.shown(f"kubectl {line}", ran.out + ran.err)
        return ran.out


def write(cluster: Cluster) -> str:
    """The page, from commands run now."""
    up(cluster)
    server = ways.names(cluster)
    _start_metrics(cluster, server)
    pods.deploy(cluster.server, pods.pod("cat", "site-b", "exec cat", stdin=True))
    page = Transcript(server)
    page.section("The nodes, and that the cloud cannot dial them")
    page.kubectl(f"get nodes -o custom-columns={_COLUMNS}")
    for address in (wires.SITE, cluster.world.sites["a"].nat_address):
        curl = ("curl", "-sSk", "-m", "3", f"https://{address}:10250/healthz")
        refused = cluster.world.cloud.run(*curl, check=False)
        if not refused.code:
            raise LabError(f"the cloud can dial {address}")
        page.shown(shlex.join(curl), refused.out + refused.err)
    page.section("logs")
    page.kubectl("logs --tail=3 ticker-site-a")
    page.kubectl("logs --tail=3 ticker-site-b")
    _follow(page, server)
    page.section("exec")
    page.kubectl("exec ticker-site-a -- cat /www/name")
    page.kubectl("exec ticker-site-b -- cat /www/name")
    page.kubectl("exec ticker-site-a -- sh -c 'exit 7'", code=7)
    _shell(page, server)
    page.section("attach")
    _attach(page, server)
    page.section("port-forward")
    _forward(page, server)
    page.section("cp, 100 MB there and back")
    _copy(page, cluster, server)
    page.section("top")
    page.kubectl("top nodes")
    page.kubectl("top pods")
    page.section("The node's own API")
    page.kubectl("get --raw /api/v1/nodes/site-a/proxy/healthz")
    version = json.loads(server.kubectl("get", "--raw", "/version").out)["gitVersion"]
    return _OPENING.format(version=version) + "\n".join(page.lines) + "\n"


def _start_metrics(cluster: Cluster, server: ApiServer) -> None:
    certificate = cluster.authority.sign("metrics", "metrics", hosts=[wires.CLOUD])
    metrics_server.start(cluster.world.cloud, certificate, server.url, cluster.pki)
    cluster.server.apply(*metrics_server.register(wires.CLOUD))
    ready = lambda: not server.kubectl("top", "nodes", check=False).code  # noqa: E731
    wait_until(ready, what="kubectl top", seconds=60)
    client = Client(server, cluster.pki)
    for node in cluster.nodes.values():
        path = f"/api/v1/nodes/{node.name}/proxy/stats/summary"
        wait_until(lambda: b"ticker" in client.get(path), what=f"pods in {path}", seconds=60)  # noqa: B023


def _follow(page: Transcript, server: ApiServer) -> None:
    line = "logs -f --tail=1 ticker-site-a"
    with Running(server, *shlex.split(line)) as logs:
        last = int(logs.until("\n").split()[-1])
        logs.until(f"tick {last + 2}\n")
        logs.interrupt()
        logs.wait()
        page.shown(f"kubectl {line}", logs.said + "^C")


def _shell(page: Transcript, server: ApiServer) -> None:
    line = "exec -it ticker-site-a -- sh"
    with Running(server, *shlex.split(line), tty=True) as shell:
        shell.until("# ")
        for typed in ("tty", "wget -qO- http://127.0.0.1:8080/name"):
            shell.type(f"{typed}\n")
            shell.until("# ")
        shell.type("exit\n")
        if shell.wait():
            raise LabError(f"the shell said {shell.said!r}")
        page.shown(f"kubectl {line}", re.sub(r"\x1b\[[0-9;]*[a-zA-Z]", "", shell.said))


def _attach(page: Transcript, server: ApiServer) -> None:
    line = "attach -i cat"
    with Running(server, *shlex.split(line), tty=True) as attached:
        attached.until("command prompt")
        attached.type("hello, edge\n")
        attached.until("hello, edge\nhello, edge\n")  # as typed, and as cat says it
        attached.interrupt()
        attached.wait()
        page.shown(f"kubectl {line}", attached.said + "^C")


def _forward(page: Transcript, server: ApiServer) -> None:
    line = "port-forward ticker-site-b 18080:8080"
    with Running(server, *shlex.split(line)) as forward:
        forward.until("Forwarding from [::1]")
        forward.until("\n") if not forward.said.endswith("\n") else None
        fetched = server.machine.run("curl", "-sS", "-m", "10", "http://127.0.0.1:18080/name").out
        forward.until("Handling connection")
        forward.interrupt()
        forward.wait()
        page.shown(f"kubectl {line} &", forward.said)
        page.shown("curl -sS http://127.0.0.1:18080/name", fetched)


def _copy(page: Transcript, cluster: Cluster, server: ApiServer) -> None:
    there, back = cluster.world.directory / "100MB", cluster.world.directory / "back"
    there.write_bytes(bytes(range(256)) * 4096 * 100)

    def timed(source: str, target: str, shown: str) -> None:
        began = time.monotonic()
        server.kubectl("cp", source, target, seconds=120)
        page.shown(f"time kubectl cp {shown}", f"real {time.monotonic() - began:.1f}s")

    timed(str(there), "ticker-site-a:/tmp/100MB", "100MB ticker-site-a:/tmp/100MB")
    page.kubectl("exec ticker-site-a -- sha256sum /tmp/100MB")
    timed("ticker-site-a:/tmp/100MB", str(back), "ticker-site-a:/tmp/100MB back")
    summed = server.machine.run("sha256sum", str(there), str(back)).out.replace(f"{there.parent}/", "")
    page.shown("sha256sum 100MB back", summed)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--write"]):
        print("usage: python -m tests.e2e_kube.transcript [--write]", file=sys.stderr)  # noqa: T201
        return 2
    if reason := binaries.missing():
        print(f"make transcript: {reason}", file=sys.stderr)  # noqa: T201
        return 2
    with Cluster() as cluster:
        text = write(cluster)
    if arguments:
        PAGE.write_text(text)
    print(text)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
