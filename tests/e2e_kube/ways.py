"""The ways by which an API server reaches kubelets through the gateway: what each end is told.

`options` are the gateway's, the other functions make API servers. Each way has an address of its own on the
gateway's machine, so that all of them stand at once; in a real cluster a Service leads there.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.lab import wires

EGRESS = "127.0.0.1:10265"  # HTTP CONNECT over TLS
SOCKET = "oam.sock"  # HTTP CONNECT over a Unix socket, in the world's directory
# As a Service has addresses: API servers lead `nodes/NAME/proxy` to no loopback address. RFC 2544, nobody's.
KUBELETS = "198.18.0.3:10250"  # TLS ends at the gateway, and begins again to the kubelet
NAMES = "198.18.0.2:10250"  # spliced by server name; an address's port is the one API servers dial


# What the API server may do, and the operator on the gateway's machine; nobody else.
POLICY = """
[[permit]]
who = ["cert:kube-apiserver-kubelet-client", "uid:0"]
targets = ["node:10250"]

[[permit]]
who = ["from:198.18.0.0/24"]
targets = ["node:10250"]
"""


def options(cluster: Cluster) -> list[str]:
    """What the gateway is told so that every way stands; their addresses are there then."""
    pki = cluster.pki
    cloud = cluster.world.cloud.namespace
    wires.ip([f"addr replace {_host(way)}/32 dev lo" for way in (NAMES, KUBELETS)], namespace=cloud)
    nodes = [site.name for site in cluster.world.sites.values()]
    cluster.authority.sign("raven-oam", "raven-gateway", hosts=["127.0.0.1", "localhost", *nodes])
    cluster.authority.sign("raven-kubelet-client", "raven-gateway", groups=["system:masters"])
    return [
        *("--oam-tls-listen", EGRESS, "--oam-client-ca", str(pki / "ca.crt")),
        *("--oam-tls-certificate", str(pki / "raven-oam.crt"), "--oam-tls-key", str(pki / "raven-oam.key")),
        *("--oam-socket", str(cluster.world.directory / SOCKET)),
        *("--names-listen", NAMES),
        *("--kubelet-listen", KUBELETS, "--kubelet-listen-client-ca", str(pki / "ca.crt")),
        *("--kubelet-listen-certificate", str(pki / "raven-oam.crt")),
        *("--kubelet-listen-key", str(pki / "raven-oam.key")),
        *("--kubelet-client-certificate", str(pki / "raven-kubelet-client.crt")),
        *("--kubelet-client-key", str(pki / "raven-kubelet-client.key")),
        *("--kubelet-ca", str(pki / "ca.crt"), "--policy", str(policy_file(cluster))),
    ]


def policy_file(cluster: Cluster) -> Path:
    """The gateway's policy; whoever changes it puts `POLICY` back."""
    path = cluster.world.directory / "policy.toml"
    if not path.exists():
        path.write_text(POLICY)
    return path


def egress_tcp(cluster: Cluster) -> ApiServer:
    """The egress selector over TCP: both ends show certificates of the cluster's CA."""
    pki = cluster.pki
    tls = {
        "caBundle": str(pki / "ca.crt"),
        "clientCert": str(pki / "apiserver-kubelet.crt"),
        "clientKey": str(pki / "apiserver-kubelet.key"),
    }
    return _egress(cluster, "Hostname", {"tcp": {"url": f"https://{EGRESS}", "tlsConfig": tls}})


def egress_unix(cluster: Cluster, address_types: str = "Hostname") -> ApiServer:
    """The egress selector over a Unix socket: whoever may open the file may ask."""
    return _egress(cluster, address_types, {"uds": {"udsName": str(cluster.world.directory / SOCKET)}})


def _egress(cluster: Cluster, address_types: str, transport: Mapping[str, Any]) -> ApiServer:
    """Names have addresses, which nobody dials: an API server looks them up before `nodes/NAME/proxy`."""
    hosts = _leading_to(cluster, wires.SITE)
    return cluster.control_plane.api_server(address_types=address_types, egress=transport, hosts=hosts)


def names(cluster: Cluster) -> ApiServer:
    """No flag at all: the nodes' names lead to the gateway."""
    return cluster.control_plane.api_server(hosts=_leading_to(cluster, _host(NAMES)))


def terminating(cluster: Cluster) -> ApiServer:
    """The nodes' names lead to where the gateway ends TLS in front of the kubelets."""
    return cluster.control_plane.api_server(hosts=_leading_to(cluster, _host(KUBELETS)))


def direct(cluster: Cluster) -> ApiServer:
    """Without Raven, for comparisons: the sites' routers forward the kubelets' port."""
    addresses = {site.name: [cluster.expose(letter)] for letter, site in cluster.world.sites.items()}
    return cluster.control_plane.api_server(hosts=addresses)


def _leading_to(cluster: Cluster, host: str) -> Mapping[str, Sequence[str]]:
    return {site.name: [host] for site in cluster.world.sites.values()}


def _host(address: str) -> str:
    return address.rpartition(":")[0]


WAYS: Mapping[str, Callable[[Cluster], ApiServer]] = {
    "egress-tcp": egress_tcp,
    "egress-unix": egress_unix,
    "names": names,
    "terminating": terminating,
}
