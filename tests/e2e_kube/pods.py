"""The pods of the test cluster, as Kubernetes takes them."""

from typing import Any

from tests.e2e_kube import image
from tests.e2e_kube.control_plane import ApiServer

# Serves /www, and counts seconds aloud, so that a log is never still.
TICKER = """
echo $NODE_NAME >/www/name; httpd -p 8080 -h /www
i=0; while :; do echo tick $i; i=$((i + 1)); sleep 1; done
"""


def pod(name: str, node: str, command: str, *, stdin: bool = False) -> dict[str, Any]:
    """A pod of one busybox that runs the shell line `command` on `node`."""
    container = {
        "name": "main",
        "image": image.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
        "env": [{"name": "NODE_NAME", "value": node}],
        "stdin": stdin,
    }
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {**spec, "containers": [container]},
    }


def deploy(server: ApiServer, *wanted: dict[str, Any], seconds: float = 120) -> None:
    """Makes the pods and returns when they are Ready."""
    server.apply(*wanted)
    names = [f"pod/{one['metadata']['name']}" for one in wanted]
    server.kubectl("wait", "--for=condition=Ready", f"--timeout={seconds:.0f}s", *names, seconds=seconds + 10)
