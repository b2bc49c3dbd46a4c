"""A Kubernetes node: containerd and kubelet as ordinary processes of a machine, at a site or in the cloud.

Directories that they have fixed names for are the node's own, and so are three kernel settings that a kubelet
writes: the host keeps its values.
"""

import json
from pathlib import Path
from typing import Any

from tests.authority import Authority
from tests.e2e_kube import image
from tests.e2e_kube.binaries import Binaries
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.mounts import seeing
from tests.lab import cgroups, wires
from tests.lab.machine import Machine
from tests.lab.process import Process
from tests.lab.waiting import wait_until

PORT = 10250
_OWN = ("/run", "/var/log", "/var/lib")  # containerd's, CNI's and the kubelet's fixed places are in these
_SETTINGS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")  # written by a kubelet
_START = 120.0  # seconds on a busy machine; alone it takes 5 to 10


class Node:
    """One node; its name in Kubernetes is the machine's, and its pods' network is by its number."""

    containerd: Process
    kubelet: Process

    def __init__(
        self,
        machine: Machine,
        address: str,
        number: int,
        *,
        binaries: Binaries,
        authority: Authority,
        server: ApiServer,
    ) -> None:
        self.machine = machine
        self.name = machine.name
        self.address = address
        self.number = number
        self.directory = machine.directory / machine.name / "node"
        self._group = machine.namespace  # also tells `leftovers` whose it is
        self._binaries = binaries
        self._authority = authority
        self._server = server

    def start(self) -> None:
        """Starts both programs and returns; `wait` waits for the node."""
        for directory in ("cni", "kubelet", *(f"own{path}" for path in (*_OWN, "/proc"))):
            (self.directory / directory).mkdir(parents=True)
        own = {path: self.directory / f"own{path}" for path in _OWN}
        for setting in _SETTINGS:
            path = Path("/proc/sys", setting)
            own[str(path)] = self.directory / "own/proc" / path.name
            own[str(path)].write_text(path.read_text())
        cgroups.make(self._group)
        hosts = [self.name, self.address]
        self._authority.sign(self.name, f"system:node:{self.name}", groups=["system:nodes"], hosts=hosts)
        self._write_configuration()
        machine = self.machine
        # A kubelet of 1.20 asks a cloud's metadata service first, for 11 s
        # unless it is told at once that there is none.
        wires.ip(["route add unreachable 169.254.0.0/16"], namespace=machine.namespace)
        self.containerd = machine.start(
            *seeing(own, "containerd", "-c", str(self.directory / "containerd.toml")),
            name=f"containerd@{self.name}",
            own_sys=False,
        )
        socket = str(self.directory / "containerd.sock")
        ctr = ("ctr", "-a", socket)
        wait_until(
            lambda: machine.run(*ctr, "version", check=False).code == 0,
            what=f"containerd of {self.name}",
            seconds=60,
        )
        archive = self.directory / "image.tar"
        image.write(archive, self._binaries.busybox)
        self.import_image(archive)
        self.start_kubelet()

    def import_image(self, archive: Path, *, seconds: float = 60) -> None:
        """Has the node's containers know the images of a docker archive."""
        socket = str(self.directory / "containerd.sock")
        self.machine.run(
            *("ctr", "-a", socket, "-n", "k8s.io", "images", "import", str(archive)), seconds=seconds
        )

    def start_kubelet(self) -> None:
        runtime = f"unix://{self.directory}/containerd.sock"
        older = ("--container-runtime=remote", f"--container-runtime-endpoint={runtime}")
        # The kubelet must see what containerd has mounted.
        self.kubelet = self.machine.start(
            *("nsenter", f"--target={self.containerd.pid}", "--mount", "--", self._binaries["kubelet"]),
            *(f"--config={self.directory}/kubelet.json", f"--root-dir={self.directory}/kubelet"),
            f"--kubeconfig={self._authority.kubeconfig(self.name, self._server.url)}",
            *(f"--hostname-override={self.name}", f"--node-ip={self.address}", "--register-node=true"),
            f"--cert-dir={self.directory}/kubelet/pki",
            *(older if self._binaries.minor < 27 else ()),
            name=f"kubelet@{self.name}",
            own_sys=False,
        )

    def wait(self) -> None:
        """Returns when the node has its pod network and is Ready."""
        get = ("get", "node", self.name)
        wait_until(
            lambda: self._server.kubectl(*get, check=False).code == 0,
            what=f"node {self.name}",
            seconds=_START,
        )
        spec = {"podCIDR": self.pod_cidr, "podCIDRs": [self.pod_cidr]}
        self._server.kubectl("patch", "node", self.name, "-p", json.dumps({"spec": spec}))
        ready = ("wait", "--for=condition=Ready", f"node/{self.name}", f"--timeout={_START:.0f}s")
        self._server.kubectl(*ready, seconds=_START + 10)

    @property
    def pod_cidr(self) -> str:
        """Another network than the lab's own pods have, which stay beside Kubernetes'."""
        return f"10.244.{self.number}.0/24"

    def _write_configuration(self) -> None:
        addresses = {
            "type": "host-local",
            "dataDir": str(self.directory / "ipam"),
            "ranges": [[{"subnet": self.pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": addresses}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        network = {"cniVersion": "0.4.0", "name": "lab", "plugins": [bridge, ports]}
        (self.directory / "cni/10-lab.conflist").write_text(json.dumps(network))
        (self.directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # there is no cluster DNS
        (self.directory / "kubelet.json").write_text(json.dumps(self._kubelet()))
        (self.directory / "containerd.toml").write_text(self._containerd())

    def _kubelet(self) -> dict[str, Any]:
        pki = self._authority.directory
        x509 = {"clientCAFile": str(self._authority.certificate)}
        configuration: dict[str, Any] = {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "port": PORT,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": x509},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"{self.name}.crt"),
            "tlsPrivateKeyFile": str(pki / f"{self.name}.key"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._group}",
            "failSwapOn": False,
            "resolvConf": str(self.directory / "resolv.conf"),
            "hairpinMode": "none",
            "readOnlyPort": 0,
            "nodeStatusUpdateFrequency": "5s",
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        }
        if self._binaries.minor >= 27:
            configuration["containerRuntimeEndpoint"] = f"unix://{self.directory}/containerd.sock"
        if self._binaries.minor >= 31:
            configuration["failCgroupV1"] = False
        return configuration

    def _containerd(self) -> str:
        # restrict_oom_score_adj: it cannot be lowered where CAP_SYS_RESOURCE is not held, as in a container
        return f"""
version = 2
root = "{self.directory}/containerd/root"
state = "{self.directory}/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{self.directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image.PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""
