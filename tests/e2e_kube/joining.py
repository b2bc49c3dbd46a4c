"""A gateway of its own beside the cluster, which says where it is and signs for edges that ask the API."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e_kube.account import install, write_kubeconfig
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.manifests import rendered
from tests.lab import wires
from tests.lab.machine import Machine, Result
from tests.lab.process import Process
from tests.lab.waiting import wait_until

AGENTS = f"{wires.CLOUD}:12262"
SECONDS = 60  # for what a controller does, on a busy machine
INFO = ("configmap", "raven-cluster-info", "-n", "kube-public")
TOKEN_ID, TOKEN_SECRET = "ravene", "0123456789abcdef"
TOKEN = f"{TOKEN_ID}.{TOKEN_SECRET}"


@dataclass(frozen=True, slots=True)
class Joining:
    """The gateway that signs, and joins at the sites."""

    cluster: Cluster
    gateway: Process
    socket: Path

    def machine(self, letter: str) -> Machine:
        return self.cluster.world.sites[letter].machine

    def state(self, letter: str, name: str) -> Path:
        return self.machine(letter).directory / f"join-{name}"

    def kubelet(self, letter: str) -> Path:
        return self.cluster.pki / f"{self.cluster.nodes[letter].name}.kubeconfig"

    def command(self, letter: str, name: str, *options: str) -> tuple[str, ...]:
        return ("raven-agent", "join", "--state-dir", str(self.state(letter, name)), *options)

    def join(self, letter: str, name: str, *options: str, text: str = "") -> Result:
        machine = self.machine(letter)
        return machine.run(*self.command(letter, name, *options), seconds=60, check=False, text=text)

    def by_token(self, letter: str, name: str, *options: str, api_ca: str = "", token: str = TOKEN) -> Result:
        url = self.cluster.server.url
        ca = api_ca or str(self.cluster.authority.certificate)
        words = ("--api-server", url, "--api-ca", ca, "--token", "-", *options)
        return self.join(letter, name, *words, text=token + "\n")

    def requests(self, node: str) -> list[dict[str, Any]]:
        items = self.cluster.server.json("get", "certificatesigningrequests")["items"]
        return [one for one in items if one["metadata"]["name"].startswith(f"raven-agent-{node}-")]

    def nodes(self) -> dict[str, dict[str, Any]]:
        command = ("ravenctl", "--socket", str(self.socket), "nodes", "-o", "json")
        return {one["name"]: one for one in json.loads(self.cluster.world.cloud.run(*command).out)}


@contextmanager
def joining(cluster: Cluster) -> Iterator[Joining]:
    """Up while entered, with the least rights of deploy/kubernetes and its addition for bootstrap tokens."""
    install(cluster)
    account = cluster.world.cloud.directory / "account.kubeconfig"
    write_kubeconfig(cluster, cluster.server, account)
    cloud = cluster.world.cloud
    directory = cloud.directory / "joining"
    socket = cloud.directory / "joining.sock"
    gateway = cloud.start(
        *("raven-gateway", "run", "--no-packets", "--state-dir", str(directory), "--name", "joining"),
        *("--socket", str(socket), "--metrics-listen", "off", "--advertise", AGENTS),
        *("--agents-listen", "0.0.0.0:12262", "--oam-listen", "127.0.0.1:12264"),
        *("--kubernetes-enabled", "--kubernetes-kubeconfig", str(account)),
        *("--kubernetes-service", "raven-gateway-agents"),
        name="raven-gateway@joining",
    )
    server = cluster.server
    manifests = rendered("bootstrap-tokens")
    server.kubectl("apply", "-f", "-", text=manifests)
    try:
        wait_until(
            # What an earlier gateway has said may still be there.
            lambda: AGENTS in server.kubectl("get", *INFO, "-o", "yaml", check=False).out,
            what=f"this gateway in the cluster info\n{gateway.tail()}",
            seconds=SECONDS,
        )
        yield Joining(cluster, gateway, socket)
        assert "forbidden" not in gateway.text()
    finally:
        gateway.stop()
        server.kubectl("delete", "-f", "-", text=manifests)
        server.kubectl("delete", *INFO, check=False)
        account.unlink()
