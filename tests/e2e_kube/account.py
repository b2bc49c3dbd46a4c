"""The ServiceAccount of deploy/kubernetes, with its least privileges, for gateways that are no pods."""

import base64
import json
from pathlib import Path

from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.manifests import installable

NAMESPACE, NAME = "raven-system", "raven-gateway"
_APPLIED = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "Role", "RoleBinding", "ClusterRole")


def install(cluster: Cluster) -> None:
    """Everything of the base but what would run."""
    cluster.server.apply(*(one for one in installable(cluster) if one["kind"].startswith(_APPLIED)))
    cluster.server.kubectl("wait", "--for=condition=Established", "crd/gateways.raven.openyurt.io")


def write_kubeconfig(cluster: Cluster, server: ApiServer, path: Path) -> None:
    """How the account reaches that API server, from its own namespace."""
    asked = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{NAME}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    made = cluster.server.kubectl("create", "--raw", asked, "-f", "-", text=json.dumps(request))
    authority = base64.b64encode(cluster.authority.certificate.read_bytes()).decode("ascii")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "lab", "cluster": {"server": server.url, "certificate-authority-data": authority}}
        ],
        "users": [{"name": NAME, "user": {"token": json.loads(made.out)["status"]["token"]}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": NAME, "namespace": NAMESPACE}}],
        "current-context": "lab",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
