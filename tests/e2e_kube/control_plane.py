"""etcd, the API servers, the controller manager and the scheduler, in the lab's cloud.

The first API server is the cluster's own, with default ways to its kubelets. Others with the same etcd stand
beside it, each on a port of its own, and reach the kubelets by another way: so that ways can be compared in
one run, and trying one disturbs nobody.
"""

import dataclasses
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.authority import Authority
from tests.e2e_kube.binaries import Binaries
from tests.e2e_kube.mounts import seeing
from tests.lab import wires
from tests.lab.errors import LabError
from tests.lab.machine import Machine, Result
from tests.lab.process import Process
from tests.lab.waiting import wait_until

PORT = 6443
SERVICES = "10.96.0.0/16"
_ETCD = "http://127.0.0.1:2379"
_START = 120.0  # seconds for an API server to be ready on a busy machine; alone it takes 5


@dataclasses.dataclass(frozen=True, slots=True)
class ApiServer:
    """A kube-apiserver that is ready, and kubectl for it."""

    machine: Machine
    process: Process
    kubectl_program: str
    kubeconfig: Path  # of a cluster administrator
    port: int
    hosts: Path  # its own /etc/hosts; may be written to while it runs
    settings: tuple[str, ...] = ()  # NAME=VALUE for kubectl's environment

    @property
    def url(self) -> str:
        return f"https://{wires.CLOUD}:{self.port}"

    def command(self, *arguments: str) -> tuple[str, ...]:
        """kubectl with `arguments`, to be run in the cloud."""
        environment = ("env", *self.settings) if self.settings else ()
        return (*environment, self.kubectl_program, "--kubeconfig", str(self.kubeconfig), *arguments)

    def kubectl(
        self, *arguments: str, seconds: float = 30, check: bool = True, text: str | None = None
    ) -> Result:
        """What `kubectl ARGUMENTS` printed, as administrator, in the cloud."""
        return self.machine.run(*self.command(*arguments), seconds=seconds, check=check, text=text)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl(*arguments, "-o", "json").out)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self.kubectl(
            "apply", "-f", "-", text=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects})
        )

    def name_hosts(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """What the server finds in its /etc/hosts besides localhost: addresses by name, tried in order."""
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address} {name}" for name, found in addresses.items() for address in found]
        self.hosts.write_text("\n".join(lines) + "\n")

    def stop(self) -> None:
        self.process.stop()


class ControlPlane:
    """The cluster's own programs in `machine`; `start` returns when the API answers."""

    def __init__(self, machine: Machine, binaries: Binaries, authority: Authority) -> None:
        self._machine = machine
        self._binaries = binaries
        self._authority = authority
        self._directory = machine.directory / "control-plane"
        self._next_port = PORT
        self._commands: dict[int, tuple[str, ...]] = {}  # of API servers, by port

    def start(self, *flags: str, managers: bool = True) -> ApiServer:
        """The cluster's own API server, with `flags` of its own; without `managers` nothing in the cluster
        acts by itself.
        """
        self._directory.mkdir()
        self._make_identities()
        machine = self._machine
        machine.start(
            *("etcd", "--data-dir", str(self._directory / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", _ETCD, "--advertise-client-urls", _ETCD),
            *("--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn"),
            name="etcd",
        ).ready(2379, seconds=60)
        server = self.api_server(*flags)
        if not managers:
            return server
        manager = (
            *(self._binaries["kube-controller-manager"], "--leader-elect=false", "--bind-address=127.0.0.1"),
            f"--kubeconfig={self._authority.kubeconfig('controller-manager', server.url)}",
            *("--use-service-account-credentials=true", f"--root-ca-file={self._authority.certificate}"),
            f"--service-account-private-key-file={self._directory}/accounts.key",
            f"--cluster-signing-cert-file={self._authority.certificate}",
            f"--cluster-signing-key-file={self._authority.key}",
        )
        machine.start(*manager, name="kube-controller-manager")
        scheduler = self._authority.kubeconfig("scheduler", server.url)
        machine.start(
            *(self._binaries["kube-scheduler"], "--leader-elect=false", "--bind-address=127.0.0.1"),
            f"--kubeconfig={scheduler}",
            name="kube-scheduler",
        )
        return server

    def api_server(
        self,
        *options: str,
        address_types: str = "Hostname,InternalIP",
        egress: Mapping[str, Any] | None = None,
        hosts: Mapping[str, Sequence[str]] | None = None,
    ) -> ApiServer:
        """One more API server, ready: how it addresses kubelets, its egress transport, and its /etc/hosts."""
        port, self._next_port = self._next_port, self._next_port + 1
        directory = self._directory / str(port)
        directory.mkdir()
        (directory / "hosts").touch()
        (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # nobody: unknown names fail at once
        flags = [*self._flags(port), f"--kubelet-preferred-address-types={address_types}", *options]
        if egress is not None:
            (directory / "egress.yaml").write_text(json.dumps(_egress(egress)))
            flags.append(f"--egress-selector-config-file={directory}/egress.yaml")
        names = {f"/etc/{file}": directory / file for file in ("hosts", "resolv.conf")}
        command = self._commands[port] = seeing(names, self._binaries["kube-apiserver"], *flags)
        process = self._machine.start(*command, name=f"kube-apiserver-{port}")
        url = f"https://{wires.CLOUD}:{port}"
        kubeconfig = self._authority.kubeconfig("admin", url, directory=directory)
        server = ApiServer(
            self._machine, process, self._binaries.kubectl, kubeconfig, port, directory / "hosts"
        )
        server.name_hosts(hosts or {})
        return self._ready(server)

    def start_again(self, server: ApiServer) -> ApiServer:
        """The same API server, of which nothing runs any more, as a new process."""
        process = self._machine.start(*self._commands[server.port], name=server.process.name)
        return self._ready(dataclasses.replace(server, process=process))

    def _ready(self, server: ApiServer) -> ApiServer:
        process = server.process.ready(server.port, seconds=_START)
        ready = lambda: process.alive and not server.kubectl("get", "--raw", "/readyz", check=False).code  # noqa: E731
        try:
            wait_until(ready, what="the API server to be ready", seconds=_START)
        except LabError as error:
            raise LabError(f"{error}\n{process.tail()}") from None
        return server

    def _make_identities(self) -> None:
        authority = self._authority
        authority.sign(
            "apiserver",
            "kube-apiserver",
            hosts=[wires.CLOUD, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc"],
        )
        authority.sign("apiserver-kubelet", "kube-apiserver-kubelet-client", groups=["system:masters"])
        authority.sign("front-proxy", "front-proxy-client")
        authority.sign("admin", "admin", groups=["system:masters"])
        authority.sign("controller-manager", "system:kube-controller-manager")
        authority.sign("scheduler", "system:kube-scheduler")
        accounts = self._directory / "accounts"
        for command in (
            ["openssl", "genrsa", "-out", f"{accounts}.key", "2048"],
            ["openssl", "rsa", "-in", f"{accounts}.key", "-pubout", "-out", f"{accounts}.pub"],
        ):
            subprocess.run(command, capture_output=True, check=True)

    def _flags(self, port: int) -> Sequence[str]:
        pki = self._authority.directory
        return (
            *(f"--etcd-servers={_ETCD}", "--bind-address=0.0.0.0", f"--secure-port={port}"),
            f"--advertise-address={wires.CLOUD}",
            # Only the cluster's own server is an endpoint of the Service `kubernetes`.
            *(() if port == PORT else ("--endpoint-reconciler-type=none",)),
            *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key"),
            f"--client-ca-file={pki}/ca.crt",
            f"--service-account-key-file={self._directory}/accounts.pub",
            f"--service-account-signing-key-file={self._directory}/accounts.key",
            *(
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-cluster-ip-range={SERVICES}",
            ),
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            *("--allow-privileged=true", "--profiling=false", "--enable-bootstrap-token-auth=true"),
            f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            # APIs that others serve, such as metrics
            *(
                f"--requestheader-client-ca-file={pki}/ca.crt",
                "--requestheader-allowed-names=front-proxy-client",
            ),
            *(
                "--requestheader-username-headers=X-Remote-User",
                "--requestheader-group-headers=X-Remote-Group",
            ),
            *("--requestheader-extra-headers-prefix=X-Remote-Extra-", "--enable-aggregator-routing=true"),
            f"--proxy-client-cert-file={pki}/front-proxy.crt",
            f"--proxy-client-key-file={pki}/front-proxy.key",
        )


def _egress(transport: Mapping[str, Any]) -> dict[str, Any]:
    """How a server reaches nodes, pods and Services: HTTP CONNECT over `transport`."""
    connection = {"proxyProtocol": "HTTPConnect", "transport": transport}
    return {
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{"name": "cluster", "connection": connection}],
    }
