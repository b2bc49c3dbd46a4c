"""A cluster of objects: an API server with its etcd, what tests put there, and gateways that follow it."""

import json
from pathlib import Path
from typing import Any, Self

from tests.authority import Authority
from tests.e2e_kube import binaries
from tests.e2e_kube.control_plane import ApiServer, ControlPlane
from tests.e2e_kube.controllers.api import Api
from tests.lab.process import Process
from tests.lab.waiting import wait_until
from tests.lab.world import World

CRD = Path(__file__).parents[3] / "deploy/kubernetes/crds/gateways.yaml"
LABEL = "raven.openyurt.io/gateway"
GATEWAYS = "/apis/raven.openyurt.io/v1beta1/gateways"
NODES = "/api/v1/nodes"
SYSTEM = "/api/v1/namespaces/kube-system"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/raven-gateway"
INTERNAL = "x-raven-proxy-internal-svc"
SECONDS = 40.0  # for what a controller does at once, on a busy machine
# Calico's own definition has the same names; of its schema nothing matters here.
BLOCKS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "blockaffinities.crd.projectcalico.org"},
    "spec": {
        "group": "crd.projectcalico.org",
        "names": {"kind": "BlockAffinity", "plural": "blockaffinities", "listKind": "BlockAffinityList"},
        "scope": "Cluster",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}
_FIRST_PORT, _PORTS = 11262, 10  # of the gateways, which share one machine


class Objects:
    """The cluster while it stands; `api` asks as administrator."""

    server: ApiServer
    control_plane: ControlPlane
    authority: Authority
    api: Api

    def __init__(self, *flags: str) -> None:
        """`flags` are the API server's, beside those it always has."""
        self.world = World(sites=())
        self.flags = flags
        self._gateways = 0

    def __enter__(self) -> Self:
        self.world.__enter__()
        try:
            self._start()
        except BaseException:
            self.world.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.api.close()
        self.world.__exit__(*exc)

    def _start(self) -> None:
        self.authority = Authority(self.world.directory / "pki", "lab-ca")
        self.control_plane = ControlPlane(self.world.cloud, binaries.find(), self.authority)
        self.server = self.control_plane.start(*self.flags, managers=False)
        self.api = self.api_of("admin")
        self.install()
        both = {"enable-l7-proxy": "true", "enable-l3-tunnel": "true"}
        self.api.create(f"{SYSTEM}/configmaps", {"metadata": {"name": "raven-cfg"}, "data": both})
        wait_until(
            lambda: self.api.get("/api/v1/namespaces/default"), what="the namespace default", seconds=SECONDS
        )

    def install(self) -> None:
        """The definitions: ours, and what of Calico's is read."""
        # kubectl before 1.23 does not know the CRD's rules; the API server reads over them.
        self.server.kubectl("apply", "--validate=false", "-f", str(CRD))
        self.server.kubectl("apply", "--validate=false", "-f", "-", text=json.dumps(BLOCKS))
        for name in ("gateways.raven.openyurt.io", "blockaffinities.crd.projectcalico.org"):
            self.server.kubectl("wait", "--for=condition=Established", f"crd/{name}", seconds=60)

    def api_of(self, user: str, *, server: ApiServer | None = None) -> Api:
        """For whom `authority` has signed."""
        return Api(server or self.server, self.authority.directory, user=user)

    def kill_server(self) -> None:
        """As a machine that loses power; `revive_server` brings it back."""
        self.api.close()
        self.server.process.kill()

    def revive_server(self) -> None:
        self.server = self.control_plane.start_again(self.server)
        self.api.close()

    def compact(self, revision: int) -> None:
        """etcd forgets what was before, as it does every five minutes."""
        body = json.dumps({"revision": str(revision), "physical": True})
        url = "http://127.0.0.1:2379/v3/kv/compaction"
        answer = self.world.cloud.run("curl", "-sSf", "-m", "10", "-d", body, url)
        assert "header" in answer.out, answer

    def cut_connections(self) -> None:
        """Resets every connection to the API server, in both programs' eyes."""
        self.api.close()
        port = str(self.server.port)
        self.world.cloud.run("ss", "-K", "-t", "dport", "=", port)

    def kubeconfig(self, user: str = "admin") -> Path:
        if not (self.authority.directory / f"{user}.crt").exists():
            self.authority.sign(user, user)
        return self.authority.kubeconfig(user, self.server.url)

    def gateway(
        self, name: str, *, kubeconfig: Path | None = None, under: tuple[str, ...] = ()
    ) -> "KubeGateway":
        """A gateway that follows the cluster, not started; `under` is what its command is run by."""
        port = _FIRST_PORT + _PORTS * self._gateways
        self._gateways += 1
        return KubeGateway(self, name, port, kubeconfig or self.kubeconfig(), under)

    # What stands in the API

    def node(
        self,
        name: str,
        site: str = "",
        *,
        address: str = "",
        external: str = "",
        cidrs: tuple[str, ...] = (),
        annotations: dict[str, str] | None = None,
    ) -> None:
        self.api.create(
            NODES, node(name, site, address=address, external=external, cidrs=cidrs, annotations=annotations)
        )

    def label(self, name: str, site: str | None) -> None:
        self.api.merge(f"{NODES}/{name}", {"metadata": {"labels": {LABEL: site}}})

    def set_ready(self, name: str, ready: bool) -> None:
        status = {"conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}]}
        self.api.merge(f"{NODES}/{name}/status", {"status": status})

    def site(self, name: str, *endpoints: dict[str, Any], **spec: Any) -> None:
        self.api.create(GATEWAYS, gateway(name, *endpoints, **spec))

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (self.api.get(f"{GATEWAYS}/{name}") or {}).get("status") or {}
        return found

    def active(self, name: str) -> list[tuple[str, str]]:
        return [(one["nodeName"], one["type"]) for one in self.status(name).get("activeEndpoints") or []]

    def condition(self, name: str, type: str) -> dict[str, Any]:
        found = (one for one in self.status(name).get("conditions", ()) if one["type"] == type)
        return next(found, {})

    def holder(self) -> str:
        """Who has the Lease; "" for nobody."""
        lease = self.api.get(LEASE) or {"spec": {}}
        return lease["spec"].get("holderIdentity") or ""

    def slices(self, service: str) -> list[dict[str, Any]]:
        found = self.api.items(f"{self.discovery()}/endpointslices")
        return [
            one for one in found if one["metadata"]["labels"].get("kubernetes.io/service-name") == service
        ]

    def addresses(self, service: str = INTERNAL) -> list[str]:
        """Where a Service leads, by its slices: the endpoints that are ready."""
        return [
            address
            for slice in self.slices(service)
            for endpoint in slice.get("endpoints") or ()
            if endpoint["conditions"]["ready"]
            for address in endpoint["addresses"]
        ]

    def set_pods(self, ready: dict[str, bool]) -> None:
        """The slice of the gateways' own Service, as the cluster keeps it: which pods are ready, by node."""
        path, name = f"{self.discovery('default')}/endpointslices", "raven-gateway-pods"
        ends = []
        for number, (node, is_ready) in enumerate(ready.items(), 1):
            place = {"topology": {"kubernetes.io/hostname": node}} if self._old() else {"nodeName": node}
            ends.append({"addresses": [f"192.0.2.{number}"], "conditions": {"ready": is_ready}, **place})
        labels = {"kubernetes.io/service-name": "raven-gateway"}
        body = {
            "metadata": {"name": name, "labels": labels},
            "addressType": "IPv4",
            "endpoints": ends,
            "ports": [],
        }
        if self.api.get(f"{path}/{name}") is None:
            self.api.create(path, body)
        else:
            self.api.merge(f"{path}/{name}", {"endpoints": ends})

    def _old(self) -> bool:
        return self.api.get("/apis/discovery.k8s.io/v1") is None

    def discovery(self, namespace: str = "kube-system") -> str:
        """Where the slices of a namespace are: v1beta1 until the server has v1."""
        version = "v1beta1" if self._old() else "v1"
        return f"/apis/discovery.k8s.io/{version}/namespaces/{namespace}"

    def events(self, name: str) -> list[tuple[str, str]]:
        """Reason and message of every Event about a Gateway."""
        return [
            (one["reason"], one["message"])
            for one in self.api.items("/api/v1/namespaces/default/events")
            if one["involvedObject"].get("name") == name and one["involvedObject"]["kind"] == "Gateway"
        ]

    def clear(self) -> None:
        """Takes away what tests have made, so that each begins with nothing."""
        for path in (GATEWAYS, NODES, "/apis/crd.projectcalico.org/v1/blockaffinities"):
            for one in self.api.items(path):
                self.api.delete(f"{path}/{one['metadata']['name']}")


class KubeGateway:
    """One raven-gateway of the cluster; streams only."""

    def __init__(
        self, objects: Objects, name: str, port: int, kubeconfig: Path, under: tuple[str, ...]
    ) -> None:
        self.name, self.agents = name, f"127.0.0.1:{port}"
        self._machine = objects.world.cloud
        self.directory = self._machine.directory / name
        self.socket = Path(f"{self.directory}.sock")
        self.oam = f"127.0.0.1:{port + 2}"
        self.names = {10250: port + 3, 9100: port + 4}  # of its ports, by those of the nodes
        self._kubeconfig, self._under = kubeconfig, under
        self.process: Process | None = None

    def start(self) -> "KubeGateway":
        """Itself, running; it may not lead yet."""
        self.process = self._machine.start(
            *self._under,
            *("raven-gateway", "run", "--no-packets", "--state-dir", str(self.directory)),
            *("--name", self.name, "--socket", str(self.socket), "--metrics-listen", "off"),
            *("--agents-listen", self.agents, "--advertise", self.agents, "--oam-listen", self.oam),
            *(f"--names-listen=0.0.0.0:{own}={port}" for port, own in self.names.items()),
            *("--kubernetes-enabled", "--kubernetes-kubeconfig", str(self._kubeconfig)),
            name=f"raven-gateway@{self.name}",
        )
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def log(self) -> str:
        assert self.process is not None
        return self.process.text()

    def cpu_seconds(self) -> float:
        assert self.process is not None
        return self.process.cpu_seconds()

    def problems(self) -> list[str]:
        """What `ravenctl status` says is wrong."""
        said = self._machine.run(
            "ravenctl", "--socket", str(self.socket), "status", "-o", "json", check=False
        ).out
        found: list[str] = json.loads(said)["problems"] if said else []
        return found

    def connected(self) -> set[str]:
        """The nodes whose stream lane is up."""
        said = self._machine.run("ravenctl", "--socket", str(self.socket), "nodes", "-o", "json", check=False)
        return {one["name"] for one in json.loads(said.out or "[]") if one["stream_lane"] == "up"}

    def agent(self, node: str) -> Process:
        """A running agent of `node`, on the gateway's own machine, joined on its first start.

        It stays with this gateway, whatever addresses the Gateways of some test have named.
        """
        state = Path(f"{self.directory}-{node}")
        if not state.exists():
            token = self._machine.run(
                *("raven-gateway", "token", "create", "--state-dir", str(self.directory), "--node", node)
            )
            self._machine.run(
                *("raven-agent", "join", "--state-dir", str(state), "--gateway", self.agents),
                *("--token", token.out.strip(), "--node", node),
            )
        return self._machine.start(
            *("raven-agent", "run", "--no-packets", "--state-dir", str(state), "--gateway", self.agents),
            *("--socket", f"{state}.sock", "--metrics-listen", "off"),
            name=f"raven-agent@{node}",
        )


def node(
    name: str,
    site: str = "",
    *,
    address: str = "",
    external: str = "",
    cidrs: tuple[str, ...] = (),
    annotations: dict[str, str] | None = None,
    ready: bool = True,
) -> dict[str, Any]:
    """A Node as a kubelet would make it, as far as anybody here reads it."""
    addresses = [{"type": "InternalIP", "address": address}] if address else []
    addresses += [{"type": "ExternalIP", "address": external}] if external else []
    return {
        "metadata": {
            "name": name,
            "labels": {LABEL: site} if site else {},
            "annotations": annotations or {},
        },
        "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {},
        "status": {
            "addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def gateway(name: str, *endpoints: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A Gateway; `spec` is what stands beside its endpoints."""
    return {
        "apiVersion": "raven.openyurt.io/v1beta1",
        "kind": "Gateway",
        "metadata": {"name": name},
        "spec": {"endpoints": list(endpoints), **spec},
    }


def proxy(node: str, **fields: Any) -> dict[str, Any]:
    return {"nodeName": node, "type": "proxy", **fields}


def tunnel(node: str, **fields: Any) -> dict[str, Any]:
    return {"nodeName": node, "type": "tunnel", **fields}


PROXIES = {"exposeType": "PublicIP", "proxyConfig": {"Replicas": 2}}
TUNNELS = {"tunnelConfig": {"Replicas": 1}}
