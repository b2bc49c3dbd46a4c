"""The whole: a world of the lab with Kubernetes in it, up on entry and gone on exit.

The cluster's own API server addresses kubelets by name and knows no address for them, so nothing of O&M works
until a test adds an API server with a way. Raven is not started here: `raven_up` does it for who wants it.
"""

from pathlib import Path
from typing import Any, Self

from tests.authority import Authority
from tests.e2e_kube import binaries, pods
from tests.e2e_kube.control_plane import ApiServer, ControlPlane
from tests.e2e_kube.kubelet import Node
from tests.lab import wires
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until
from tests.lab.world import World

_ACCOUNT_WAIT = 60.0  # seconds until the controller manager has made the account that pods need


class Cluster:
    """A cluster while it stands.

    `server` is its own API server; `nodes` are by the letters of the sites; on each runs the pod
    `ticker-SITE`, which serves its node's name at port 8080 and logs a line a second.
    """

    server: ApiServer
    control_plane: ControlPlane
    authority: Authority

    def __init__(self, sites: tuple[str, ...] = ("a", "b")) -> None:
        self.world = World(sites)
        self.binaries = binaries.find()
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> Self:
        self.world.__enter__()
        try:
            self._start()
        except BaseException:
            self.world.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.world.__exit__(*exc)

    def _start(self) -> None:
        self.authority = Authority(self.world.directory / "pki", "lab-ca")
        self.control_plane = ControlPlane(self.world.cloud, self.binaries, self.authority)
        self.server = self.control_plane.start()
        for letter, site in self.world.sites.items():
            self.nodes[letter] = self._node(site.machine, wires.SITE, site.number)
            self.nodes[letter].start()
        for node in self.nodes.values():
            node.wait()
        account = ("get", "serviceaccount", "default")
        wait_until(
            lambda: self.server.kubectl(*account, check=False).code == 0,
            what="the service account of the namespace default",
            seconds=_ACCOUNT_WAIT,
        )
        pods.deploy(self.server, *(ticker(node.name) for node in self.nodes.values()))

    def add_cloud_node(self) -> Node:
        """One more node, the cloud's own machine, Ready; the cluster's server can dial its kubelet."""
        node = self._node(self.world.cloud, wires.CLOUD, 0)
        node.start()
        node.wait()
        return node

    def _node(self, machine: Machine, address: str, number: int) -> Node:
        return Node(
            machine,
            address,
            number,
            binaries=self.binaries,
            authority=self.authority,
            server=self.server,
        )

    @property
    def pki(self) -> Path:
        """Certificates and keys of everybody in the cluster, by file name; see `authority`."""
        return self.authority.directory

    def expose(self, letter: str, port: int = 10250) -> str:
        """Lets the cloud dial a site after all, for comparisons: the router forwards `port` to the node."""
        site = self.world.sites[letter]
        rules = f"""
table ip exposed {{
    chain in {{
        type nat hook prerouting priority dstnat;
        iifname "wan" tcp dport {port} dnat to {wires.SITE}:{port}
    }}
}}
insert rule ip lab through ip daddr {wires.SITE} tcp dport {port} accept
"""
        site.nat.run("nft", "-f", "-", text=rules)
        return site.nat_address


def ticker(node: str) -> dict[str, Any]:
    return pods.pod(f"ticker-{node}", node, pods.TICKER)
