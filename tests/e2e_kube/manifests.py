"""deploy/kubernetes as a cluster of some version takes it."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e_kube.cluster import Cluster

RULES = 23  # the minor version from which API servers know rules in a CRD; from 25 on they apply them
MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
OLDER = "before-1.23"  # the component for those that do not
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


def rendered(overlay: str, *, older: bool = False) -> str:
    """`overlay`, for older servers where so told; by the newest kubectl, since that of 1.20 cannot do it."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on the PATH to render kustomizations")
    with tempfile.TemporaryDirectory() as directory:
        bases = [os.path.relpath(MANIFESTS / one, directory) for one in (overlay, OLDER)]
        mine = {"resources": bases[:1], "components": bases[1:]} if older else {"resources": bases[:1]}
        Path(directory, "kustomization.yaml").write_text(yaml.safe_dump(mine))
        command = [program, "kustomize", directory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unknown field" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip(f"this kubectl is too old to render kustomizations: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def installable(cluster: Cluster, overlay: str = "base") -> list[dict[str, Any]]:
    """`overlay` as this cluster's API server takes it."""
    return list(yaml.safe_load_all(rendered(overlay, older=cluster.binaries.minor < RULES)))


def remove_rules(schema: Any) -> None:
    """Takes the rules out of a CRD, in place."""
    if isinstance(schema, dict):
        schema.pop("x-kubernetes-validations", None)
        for inner in schema.values():
            remove_rules(inner)
    elif isinstance(schema, list):
        for inner in schema:
            remove_rules(inner)
