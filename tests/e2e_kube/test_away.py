"""The gateway's API server is away: what is established goes on, what is new works, and so does a restart.

kubectl asks another API server of the same cluster, since without any there is no kubectl; the gateway knows
only the one that is killed. Pods of the site are reached by the packet lane all the while, whose networks the
gateway has from a Gateway resource and nowhere else.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e_kube import binaries, ways
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.controllers import objects
from tests.e2e_kube.terminal import Running
from tests.lab import programs, raven, wires
from tests.lab.raven import Agent, Gateway
from tests.lab.waiting import wait_until

AWAY = float(os.environ.get("RAVEN_KUBE_AWAY", "30"))  # seconds; 600 is the promise, tried by hand
BACK = 90.0  # seconds: pauses between tries grow to 30 and 60
_LOST_MAX = 0.01  # of the pings, on a busy machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One of its own: another gateway than that of the other tests runs in it, with packets."""
    if reason := binaries.missing():
        pytest.skip(reason)
    with Cluster(sites=("a",)) as running:
        yield running


@pytest.fixture(scope="module")
def known(cluster: Cluster) -> ApiServer:
    """The only API server that the gateway knows."""
    return cluster.control_plane.api_server()


@pytest.fixture(scope="module")
def carried(cluster: Cluster, known: ApiServer) -> tuple[Gateway, Agent]:
    """Gateway and agent with both lanes up, the site's networks from a Gateway resource."""
    server, site = cluster.server, cluster.world.sites["a"]
    server.kubectl("apply", "--validate=false", "-f", str(objects.CRD))
    server.kubectl("wait", "--for=condition=Established", "crd/gateways.raven.openyurt.io", seconds=60)
    on = {"enable-l3-tunnel": "true", "enable-l7-proxy": "true"}
    meta = {"name": "raven-cfg", "namespace": "kube-system"}
    resource = objects.gateway("shop", objects.tunnel(site.name, underNAT=True), **objects.TUNNELS)
    # The lab's own pods stand beside those of Kubernetes, which the cluster knows.
    annotation = "raven.openyurt.io/extra-allowed-source-cidrs"
    resource["metadata"]["annotations"] = {annotation: wires.pod_cidrs(1)[0]}
    server.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": on}, resource)
    server.kubectl("label", "node", site.name, f"{objects.LABEL}=shop")
    kubeconfig = ("--kubernetes-enabled", "--kubernetes-kubeconfig", str(known.kubeconfig))
    gateway = raven.gateway(cluster.world, *ways.options(cluster), *kubeconfig)
    gateway.start()
    gateway.ready()
    agent = raven.agent(site, "--node-address", wires.SITE, "--allow", "node:10250", pod_cidrs=())
    agent.join(gateway.token("--node", site.name))
    agent.start()
    gateway.wait_for(site.name, seconds=60)
    programs.ping_until(cluster.world.cloud_pod, site.pod_address, seconds=60)
    return gateway, agent


@pytest.mark.timeout(AWAY + 600)
def test_everything_goes_on_without_it(
    cluster: Cluster, known: ApiServer, carried: tuple[Gateway, Agent]
) -> None:
    gateway, agent = carried
    site, way = cluster.world.sites["a"], ways.names(cluster)
    pod = f"ticker-{site.name}"
    ping = ("ping", "-q", "-i", "0.2", "-W", "5", site.pod_address)
    with Running(way, "exec", "-i", pod, "--", "sh", "-c", "echo up; cat") as shell:
        shell.until("up\n")
        pings = subprocess.Popen(
            cluster.world.cloud_pod.command(*ping), stdout=subprocess.PIPE, text=True, env=way.machine.env
        )
        known.process.kill()
        gone = time.monotonic()
        try:
            count = 0
            while time.monotonic() - gone < AWAY:
                shell.type(f"line {count}\n")
                shell.until(f"line {count}\n")
                assert way.kubectl("exec", pod, "--", "cat", "/www/name").out == f"{site.name}\n"
                assert way.kubectl("logs", "--tail=1", pod).out.startswith("tick ")
                count += 1
                time.sleep(1)
            said = gateway.ctl_json("status", check=False)["problems"]
            assert any("is out of reach" in one for one in said), said
        finally:
            pings.send_signal(signal.SIGINT)
            told = pings.communicate(timeout=10)[0]
        sent, received = (int(word) for word in told.rpartition("---\n")[2].split()[0:4:3])
        assert sent > AWAY * 4
        assert received >= sent * (1 - _LOST_MAX)
    # Both ends start anew, and still nobody can tell them anything.
    assert agent.stop(20) == 0
    agent.start()
    gateway.wait_for(site.name, seconds=60)
    assert gateway.stop(20) == 0
    gateway.start()
    gateway.ready(60)
    gateway.wait_for(site.name, seconds=60)
    programs.ping_until(cluster.world.cloud_pod, site.pod_address, seconds=60)
    wait_until(
        lambda: way.kubectl("exec", pod, "--", "true", check=False).code == 0,
        what="exec through the gateway that has just started",
        seconds=60,
    )
    back = cluster.control_plane.start_again(known)
    patch = json.dumps({"spec": {"tunnelConfig": {"Replicas": 0}}})
    back.kubectl("patch", "gateways.raven.openyurt.io", "shop", "--type=merge", "-p", patch)
    shop = ("get", "gateways.raven.openyurt.io", "shop")
    wait_until(
        lambda: not back.json(*shop)["status"].get("activeEndpoints"), what="what was changed", seconds=BACK
    )
    told = gateway.ctl_json("status", check=False)["problems"]
    assert not any("out of reach" in one for one in told), told
