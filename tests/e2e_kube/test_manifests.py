"""deploy/kubernetes before a real API server: everything in it is admitted, by the server's own schemas."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e_kube.cluster import Cluster
from tests.lab.machine import Result

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
# What the Prometheus operator installs, as far as admitting its objects goes.
SERVICE_MONITORS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ServiceMonitor, plural: servicemonitors}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def rendered(overlay: str) -> str:
    """By the newest kubectl there is: that of Kubernetes 1.20 cannot render patches with targets."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on the PATH to render kustomizations")
    command = [program, "kustomize", str(MANIFESTS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unknown field" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip(f"this kubectl is too old to render kustomizations: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def _dry_run(cluster: Cluster, manifests: str) -> Result:
    options = apply_options(cluster)
    return cluster.server.kubectl(
        "apply", "--dry-run=server", *options, "-f", "-", text=manifests, check=False
    )


def apply_options(cluster: Cluster) -> tuple[str, ...]:
    """An old kubectl knows not all of our CRD; the server still checks what it knows."""
    return ("--validate=false",) if cluster.binaries.minor < 23 else ()


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> None:
    """A dry run makes no namespace, and objects in it need one."""
    cluster.server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "raven-system"}})


@pytest.mark.parametrize("overlay", ["base", "streams-only", "kubernetes-1.20", "crds"])
def test_the_server_admits_all_of_it(cluster: Cluster, namespace: None, overlay: str) -> None:
    manifests = rendered(overlay)
    if cluster.binaries.minor < 21:
        # What kubernetes-1.20 is for; here the rest of the others is of interest.
        manifests = manifests.replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n")
    elif overlay == "kubernetes-1.20":
        pytest.skip("this API server is newer and has no policy/v1beta1")
    admitted = _dry_run(cluster, manifests)
    assert admitted.code == 0, admitted.err
    kinds = {line.partition("/")[0] for line in admitted.out.splitlines()}
    wanted = {"customresourcedefinition.apiextensions.k8s.io"}
    if overlay != "crds":
        roles = {f"{kind}.rbac.authorization.k8s.io" for kind in ("role", "rolebinding", "clusterrole")}
        wanted |= {"daemonset.apps", "service", "configmap", "serviceaccount"} | roles
    assert wanted <= kinds


def test_the_server_admits_the_service_monitor(cluster: Cluster, namespace: None) -> None:
    cluster.server.kubectl("apply", "-f", "-", text=SERVICE_MONITORS)
    cluster.server.kubectl("wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com")
    admitted = _dry_run(cluster, rendered("monitoring"))
    assert admitted.code == 0, admitted.err


def test_a_typing_error_is_not_admitted(cluster: Cluster, namespace: None) -> None:
    """The proof that the dry run looks at anything."""
    broken = rendered("kubernetes-1.20").replace("hostNetwork: true", "hostNetwork: [maybe]")
    refused = _dry_run(cluster, broken)
    assert refused.code != 0
    assert "hostNetwork" in refused.err
