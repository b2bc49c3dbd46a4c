"""Where the programs of Kubernetes are: what `.ci/kubernetes` has built, or KUBE_BIN_DIR.

Flags differ between versions, so the version is read from the kubelet itself.
"""

import dataclasses
import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab import world

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
PACKAGES = {"etcd": "etcd-server", "containerd": "containerd", "ctr": "containerd", "runc": "runc"}


@dataclasses.dataclass(frozen=True, slots=True)
class Binaries:
    """A set of programs of one version."""

    directory: Path
    version: str  # of the kubelet and so of all of them, such as v1.20.2
    kubectl: str
    kubectl_version: str
    busybox: Path  # statically linked, for the pods' image

    def __getitem__(self, program: str) -> str:
        return str(self.directory / program)

    @property
    def minor(self) -> int:
        """20 for Kubernetes 1.20."""
        return _minor(self.version)

    @property
    def kubectl_minor(self) -> int:
        return _minor(self.kubectl_version)

    def __str__(self) -> str:
        return f"Kubernetes {self.version} from {self.directory}, kubectl {self.kubectl_version}"


def _minor(version: str) -> int:
    return int(version.split(".")[1])


def cache() -> Path:
    """What `.ci/kubernetes` fills; the same rule stands there."""
    if own := os.environ.get("RAVEN_KUBE_CACHE"):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "raven-kube"


def directory() -> Path:
    own = os.environ.get("KUBE_BIN_DIR")
    return Path(own) if own else cache() / "bin"


@functools.cache
def missing() -> str:
    """Why no cluster can be built here, as a sentence; "" when one can."""
    if reason := world.missing():
        return reason
    if absent := [name for name in PROGRAMS if not os.access(directory() / name, os.X_OK)]:
        return (
            f"no {', '.join(absent)} in {directory()}; `make e2e-kube` builds them, KUBE_BIN_DIR names others"
        )
    if _kubectl() is None:
        return f"no kubectl in {directory()} or on the PATH"
    if packages := sorted({package for name, package in PACKAGES.items() if shutil.which(name) is None}):
        return f"not installed: {', '.join(packages)}; `make e2e-kube` installs them"
    if not Path("/usr/lib/cni/bridge").exists():
        return "not installed: containernetworking-plugins; `make e2e-kube` installs it"
    if not (cache() / "busybox").exists():
        return f"no busybox in {cache()}; `make e2e-kube` puts it there"
    if not (Path("/sys/fs/cgroup/cgroup.controllers").exists() or Path("/sys/fs/cgroup/memory").exists()):
        return "no control groups are mounted at /sys/fs/cgroup"
    return ""


@functools.cache
def find() -> Binaries:
    """The programs; call it once `missing` has found nothing."""
    kubectl = _kubectl()
    assert kubectl is not None
    return Binaries(
        directory=directory(),
        version=_said(directory() / "kubelet", "--version"),
        kubectl=kubectl,
        kubectl_version=_said(kubectl, "version", "--client"),
        busybox=cache() / "busybox",
    )


def tool(name: str) -> str:
    """A program of the test's own, such as helm; skips where there is none."""
    path = cache() / "tools" / name
    if not path.exists():
        pytest.skip(f"no {name} in {path.parent}; `make e2e-kube` puts it there")
    return str(path)


def _said(program: str | Path, *arguments: str) -> str:
    """The version that `program` says it is of."""
    said = subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v1\.\d+[^\s\"]*", said)
    assert version is not None, said
    return version[0]


def _kubectl() -> str | None:
    own = os.environ.get("KUBECTL")
    beside = [str(path) for path in (directory() / "kubectl", cache() / "bin/kubectl") if path.exists()]
    return own or (beside[0] if beside else shutil.which("kubectl"))
