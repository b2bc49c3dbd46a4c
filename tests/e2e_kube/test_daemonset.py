"""The gateway as a cluster runs it: the image of deploy/Dockerfile, the kustomization, the cloud's kubelet.

    kubectl ── API server ── kubelet "cloud" ── pod raven-gateway (the host's network)
                    │                                   │
                    └── site-a:10250 ── names_listen ───┘══ tunnel ══ raven-agent ── kubelet "site-a"

A Service of type LoadBalancer leads nowhere here, so agents dial the node; a rule of the cloud's packet
filter stands for kube-proxy, which would lead the API's Service address to the API server.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e_kube import binaries
from tests.e2e_kube.binaries import tool
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import PORT, ApiServer
from tests.e2e_kube.manifests import MANIFESTS, RULES
from tests.lab import raven, wires
from tests.lab.raven import AGENTS, Agent
from tests.lab.waiting import wait_until

IMAGE = "localhost/raven/raven"
NAMES = "198.18.0.2"  # what the nodes' names lead to; RFC 2544, nobody's
POD = ("-n", "raven-system", "daemonset/raven-gateway")
BUILD = 1500  # seconds for the first build of the image on a busy machine; alone it takes 150, and again 20
START = 240  # seconds until a pod is there on a busy machine
CAP_NET_ADMIN = 1 << 12  # <linux/capability.h>

pytestmark = pytest.mark.timeout(BUILD + 300)

SERVICES = f"""
table ip services {{
    chain out {{
        type nat hook output priority -100;
        ip daddr 10.96.0.1 tcp dport 443 dnat to {wires.CLOUD}:{PORT}
        ip daddr {NAMES} tcp dport 10250 dnat to {wires.CLOUD}:10263
    }}
}}
"""


@pytest.fixture(scope="module")
def archive() -> Path:
    """The image of this checkout, built."""
    if reason := binaries.missing():
        pytest.skip(reason)
    script = Path(__file__).parents[2] / ".ci" / "image"
    built = subprocess.run([script], capture_output=True, text=True, timeout=BUILD, check=False)
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a node in the cloud, and on it what docs/install-kubernetes.md has an operator apply."""
    with Cluster(("a",)) as cluster:
        cloud = cluster.add_cloud_node()
        cloud.import_image(archive, seconds=300)
        cluster.server.name_hosts({"cloud": [wires.CLOUD]})
        cluster.server.kubectl("label", "node", "site-a", "openyurt.io/is-edge-worker=true")
        wires.ip([f"addr replace {NAMES}/32 dev lo"], namespace=cluster.world.cloud.namespace)
        cluster.world.cloud.run("nft", "-f", "-", text=SERVICES)
        _apply(cluster, tmp_path_factory.mktemp("mine"))
        yield cluster


def _apply(cluster: Cluster, mine: Path, more: str = "") -> None:
    """An operator's own settings beside the base, applied, and the pods that follow from them; `more` comes
    first in the settings.
    """
    base = MANIFESTS / ("" if cluster.binaries.minor >= RULES else "kubernetes-1.20")
    settings = (MANIFESTS / "base/gateway.toml").read_text()
    settings = more + settings.replace("gateway.example.com:443", AGENTS)
    pods = json.dumps([*wires.POD_RANGES])
    settings = settings.replace('pod_range = ["10.244.0.0/16"]', f"pod_range = {pods}")
    (mine / "gateway.toml").write_text(settings)
    (mine / "kustomization.yaml").write_text(
        json.dumps(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": [os.path.relpath(base, mine)],
                "images": [{"name": "raven", "newName": IMAGE, "newTag": "test"}],
                "configMapGenerator": [
                    {
                        "name": "raven-gateway",
                        "namespace": "raven-system",
                        "behavior": "replace",
                        "files": ["gateway.toml"],
                    }
                ],
            }
        )
    )
    command = (tool("kubectl"), "--kubeconfig", str(cluster.server.kubeconfig), "apply", "-k", str(mine))
    cluster.world.cloud.run(*command, seconds=60)
    rolled = ("rollout", "status", f"--timeout={START}s", *POD)
    done = cluster.server.kubectl(*rolled, seconds=START + 10, check=False)
    assert done.code == 0, f"{done.err}\n{_story(cluster.server)}"


def _story(server: ApiServer) -> str:
    """What an operator would look at next."""
    looks = (("describe", "pods", "-n", "raven-system"), ("logs", "--tail=40", *POD))
    return "\n".join(server.kubectl(*look, check=False).out for look in looks)


def _inside(server: ApiServer, *command: str) -> str:
    """What a command in the gateway's pod prints."""
    done = server.kubectl("exec", *POD, "--", *command, check=False)
    assert done.code == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def agent(installed: Cluster) -> Agent:
    """The node site-a, joined with a token that an operator made inside the pod, and running."""
    token = _inside(installed.server, "raven-gateway", "token", "create", "--node", "site-a").strip()
    one = raven.agent(installed.world.sites["a"], "--node-address", wires.SITE, "--allow", "node:10250")
    one.join(token)
    one.start()
    return one


def _wait_for_lanes(server: ApiServer, *lanes: str) -> None:
    def up() -> bool:
        nodes = json.loads(_inside(server, "ravenctl", "nodes", "-o", "json"))
        return any(one["name"] == "site-a" and all(one[lane] == "up" for lane in lanes) for one in nodes)

    wait_until(up, what=f"{', '.join(lanes)} of site-a", seconds=60)


def test_the_programs_of_the_image_run_as_nobody(archive: Path) -> None:
    """Read-only, without a network, as the user that the image names."""
    if shutil.which("buildah") is None:
        pytest.skip("no buildah")
    root = archive.parent
    buildah = ["buildah", "--root", str(root / "storage"), "--runroot", str(root / "run")]
    buildah += ["--storage-driver", "overlay"]

    def run(*command: str) -> str:
        done = subprocess.run([*buildah, *command], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    container = run("from", "--pull-never", f"{IMAGE}:test")
    try:
        inside = ("run", "--isolation", "chroot", container, "--")
        for program in ("raven-gateway", "raven-agent", "ravenctl", "raven-wg"):
            assert run(*inside, program, "--version").split()[-1][0].isdigit()
        assert run(*inside, "id", "-u") == "65532"
        assert run(*inside, "find", "/opt/raven", "-writable", "-not", "-type", "l") == ""
    finally:
        run("rm", container)


def test_an_edge_node_joins_and_kubectl_reaches_it(installed: Cluster, agent: Agent) -> None:
    _wait_for_lanes(installed.server, "stream_lane", "packet_lane")
    by_names = installed.control_plane.api_server(hosts={"site-a": [NAMES], "cloud": [wires.CLOUD]})
    try:
        assert "tick" in by_names.kubectl("logs", "--tail=3", "ticker-site-a").out
        assert by_names.kubectl("exec", "ticker-site-a", "--", "cat", "/www/name").out.strip() == "site-a"
    finally:
        by_names.stop()


def test_the_pod_has_one_capability_and_no_file_to_write(installed: Cluster) -> None:
    status = _inside(installed.server, "cat", "/proc/1/status")
    found = dict(line.split(":", 1) for line in status.splitlines())
    for held in ("CapPrm", "CapEff", "CapBnd"):
        assert int(found[held], 16) == CAP_NET_ADMIN
    assert found["NoNewPrivs"].strip() == "1"
    assert found["Seccomp"].strip() == "2"  # filtered
    mounts = _inside(installed.server, "cat", "/proc/mounts").splitlines()
    root = next(line.split() for line in mounts if line.split()[1] == "/")
    assert "ro" in root[3].split(",")


def test_a_new_configuration_replaces_the_pod_and_loses_nobody(
    installed: Cluster, agent: Agent, tmp_path: Path
) -> None:
    server = installed.server
    name = ("get", "pods", "-n", "raven-system", "-o", "jsonpath={.items[*].metadata.uid}")
    before = server.kubectl(*name).out
    _apply(installed, tmp_path, "drain_seconds = 5\n")
    assert server.kubectl(*name).out != before
    _wait_for_lanes(server, "stream_lane", "packet_lane")
