"""The fake API server of the quick tests answers as the real one does, and a bad Gateway is refused."""

import json
import sys
from pathlib import Path

import trio
import trio.testing

from tests.e2e_kube.cluster import Cluster
from tests.kube.conversation import Answers, converse
from tests.kube.fake import FakeApi

ROOT = Path(__file__).parents[2]
CRD = ROOT / "deploy/kubernetes/crds/gateways.yaml"


async def _fakes_answers() -> Answers:
    return await converse(FakeApi().client())


def test_both_say_the_same(cluster: Cluster) -> None:
    server = cluster.server
    # kubectl before 1.23 does not know the CRD's rules; the API server reads over them.
    server.kubectl("apply", "--validate=false", "-f", str(CRD))
    server.kubectl("wait", "--for=condition=Established", "crd/gateways.raven.openyurt.io", seconds=60)
    command = (sys.executable, "-m", "tests.kube.conversation", str(server.kubeconfig))
    real = json.loads(cluster.world.cloud.run(*command, seconds=120).out)
    fake = trio.run(_fakes_answers, clock=trio.testing.MockClock(autojump_threshold=0))
    assert real == json.loads(json.dumps(fake))


def test_the_schema_refuses_what_is_no_gateway(cluster: Cluster) -> None:
    cluster.server.kubectl("apply", "--validate=false", "-f", str(CRD))
    for spec, said in (
        ({"exposeType": "NodePort"}, "exposeType"),
        ({"endpoints": [{"nodeName": "n", "type": "vpn"}]}, "type"),
        ({"endpoints": [{"type": "tunnel"}]}, "nodeName"),
        ({"tunnelConfig": {"Replicas": 2}}, "Replicas"),
    ):
        body = {
            "apiVersion": "raven.openyurt.io/v1beta1",
            "kind": "Gateway",
            "metadata": {"name": "bad"},
            "spec": spec,
        }
        answer = cluster.server.kubectl(
            "create", "--validate=false", "-f", "-", text=json.dumps(body), check=False
        )
        assert answer.code != 0, answer
        assert said in answer.err, answer
