"""metrics.k8s.io as metrics-server serves it, for `kubectl top`: Debian packages no metrics-server.

Reads the kubelets' summary API through the API server that it is given, on each request, and keeps nothing.
Run as a program in the cloud: `python -m tests.e2e_kube.metrics_server PORT CERTIFICATE API CLIENT CA`, where
CERTIFICATE and CLIENT are paths without .crt and .key.
"""

import http.server
import json
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab.machine import Machine
from tests.lab.process import Process

GROUP = "metrics.k8s.io/v1beta1"
PORT = 4443


def register(address: str) -> list[dict[str, Any]]:
    """The objects that make an API server ask at `address`, for `ApiServer.apply`."""
    service = {"name": "metrics", "namespace": "kube-system", "port": 443}
    named = {"name": "metrics", "namespace": "kube-system"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named,
            "spec": {"ports": [{"port": 443, "targetPort": PORT}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": named,
            "subsets": [{"addresses": [{"ip": address}], "ports": [{"port": PORT}]}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "service": service,
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    ]


def start(machine: Machine, certificate: Path, api: str, pki: Path) -> Process:
    """The server in `machine`, asking the API at `api` as administrator."""
    command = (sys.executable, "-m", __name__, str(PORT), str(certificate), api)
    return machine.start(*command, str(pki / "admin"), str(pki / "ca.crt"), name="metrics").ready(PORT)


class Summaries:
    """What every kubelet says of its node and pods."""

    def __init__(self, api: str, client: str, ca: str) -> None:
        self._api = api
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(f"{client}.crt", f"{client}.key")
        handler = urllib.request.HTTPSHandler(context=context)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)

    def _get(self, path: str) -> Any:
        with self._opener.open(f"{self._api}{path}", timeout=20) as answer:
            return json.load(answer)

    def all(self) -> Iterator[Any]:
        for node in self._get("/api/v1/nodes")["items"]:
            yield self._get(f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary")

    def answer(self, path: str) -> Any:
        """The body of a GET; None for a path there is not."""
        words = path.partition("?")[0].strip("/").split("/")
        if words == ["apis", *GROUP.split("/")]:
            return _resources()
        match words[3:]:
            case ["nodes"]:
                return _list("NodeMetrics", [_node(one["node"]) for one in self.all()])
            case ["nodes", name]:
                return next(
                    (_node(one["node"]) for one in self.all() if one["node"]["nodeName"] == name), None
                )
            case ["pods"]:
                return _list("PodMetrics", [_pod(pod) for one in self.all() for pod in one.get("pods", [])])
            case ["namespaces", namespace, "pods"]:
                pods = [_pod(pod) for one in self.all() for pod in one.get("pods", [])]
                return _list("PodMetrics", [pod for pod in pods if pod["metadata"]["namespace"] == namespace])
        return None


def _usage(stats: Any) -> dict[str, str]:
    cpu = stats.get("cpu", {}).get("usageNanoCores", 0)
    memory = stats.get("memory", {}).get("workingSetBytes", 0)
    return {"cpu": f"{cpu}n", "memory": f"{memory // 1024}Ki"}


def _metrics(kind: str, metadata: dict[str, str], time: str) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": GROUP, "metadata": metadata, "timestamp": time, "window": "10s"}


def _node(node: Any) -> dict[str, Any]:
    return {**_metrics("NodeMetrics", {"name": node["nodeName"]}, node["cpu"]["time"]), "usage": _usage(node)}


def _pod(pod: Any) -> dict[str, Any]:
    reference = {key: pod["podRef"][key] for key in ("name", "namespace")}
    containers = [{"name": one["name"], "usage": _usage(one)} for one in pod.get("containers", [])]
    return {**_metrics("PodMetrics", reference, pod["startTime"]), "containers": containers}


def _list(kind: str, items: list[Any]) -> dict[str, Any]:
    return {"kind": f"{kind}List", "apiVersion": GROUP, "metadata": {}, "items": items}


def _resources() -> dict[str, Any]:
    kinds = (("nodes", "NodeMetrics", False), ("pods", "PodMetrics", True))
    resources = [
        {"name": name, "singularName": "", "namespaced": inside, "kind": kind, "verbs": ["get", "list"]}
        for name, kind, inside in kinds
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP, "resources": resources}


def main(port: str, certificate: str, api: str, client: str, ca: str) -> None:
    summaries = Summaries(api, client, ca)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                found = summaries.answer(self.path)
                status = 404 if found is None else 200
            except OSError as error:
                found, status = {"kind": "Status", "message": str(error)}, 503
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{certificate}.crt", f"{certificate}.key")
    server = http.server.ThreadingHTTPServer(("", int(port)), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
