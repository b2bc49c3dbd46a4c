"""Joining by the API server: a fake one, and the real end of a gateway that has to prove itself first."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from agent import kube_join
from agent.join import Joined
from gateway.controllers.certificates import CertificateReconciler
from raven import log
from raven.errors import ConfigError, PeerError, RavenError
from raven.kube.access import Access
from raven.kube.client import Client
from raven.kube.cluster_info import NAME, NAMESPACE, ClusterInfo
from raven.kube.objects import Meta
from raven.kube.resources import CERTIFICATE_REQUESTS, CONFIG_MAPS, SECRETS, ConfigMap, Secret
from raven.kube.signing import NODE_ANNOTATION
from raven.kube.watch import Cache
from raven.pki.ca import Authority
from raven.pki.csr import read_csr_untrusted
from raven.registry.agent_state import open_agent
from tests.agent.joining import World, running
from tests.authority import Authority as KubeAuthority
from tests.kube.fake import FakeApi, status
from tests.pki.material import make_authority, seeded

CSRS = "certificatesigningrequests"
TOKEN = "abcdef.0123456789abcdef"


class Edge:
    """An edge, its API server, and a gateway that signs while `signing` is entered."""

    def __init__(self, directory: Path, world: World) -> None:
        self.directory, self.world, self.api = directory, world, FakeApi()
        self.said: list[str] = []
        self.kube = KubeAuthority(directory / "pki", "kube-ca")
        self.authority: Authority = world.state.authority  # who signs
        self.issue: Callable[[str], str] = lambda node: node  # the name that the signer puts in
        self.publish(str(world.address))

    def publish(self, *gateways: str, ca_pem: str = "", cluster: str = "") -> None:
        state = self.world.state
        names = tuple((f"gw-{number}", address) for number, address in enumerate(gateways))
        info = ClusterInfo(cluster or state.cluster, ca_pem or state.authority.certificate_pem, names)
        self.api.objects.pop(("configmaps", f"{NAMESPACE}/{NAME}"), None)
        self.api.add(CONFIG_MAPS, ConfigMap(metadata=Meta(name=NAME, namespace=NAMESPACE), data=info.data()))

    def kubelet(self, node: str) -> Path:
        """kubelet.conf of a node, whose certificate and key are in one file, as kubelets keep them."""
        self.api.user = f"system:node:{node}", ("system:nodes",)
        made = self.kube.sign(node, f"system:node:{node}", groups=["system:nodes"])
        both = self.directory / f"{node}.pem"
        both.write_bytes(Path(f"{made}.crt").read_bytes() + Path(f"{made}.key").read_bytes())
        path = self.kube.kubeconfig(node, "https://api.lan:6443")
        config = json.loads(path.read_text())
        config["users"][0]["user"] = {"client-certificate": str(both), "client-key": str(both)}
        path.write_text(json.dumps(config))
        return path

    def token(self, node: str | None) -> dict[str, Any]:
        """The options for a bootstrap token that is bound to `node`."""
        self.api.user = "system:bootstrap:abcdef", ("system:bootstrappers",)
        annotations = {NODE_ANNOTATION: node} if node else {}
        meta = Meta(name="bootstrap-token-abcdef", namespace="kube-system", annotations=annotations)
        self.api.objects.pop(("secrets", "kube-system/bootstrap-token-abcdef"), None)
        self.api.add(SECRETS, Secret(metadata=meta, type="bootstrap.kubernetes.io/token"))
        return {"api_server": "api.lan:6443", "api_ca": str(self.kube.certificate), "token": TOKEN}

    async def join(self, *, name: str = "agent", node: str = "", wait: float = 10.0, **given: Any) -> Joined:
        def connect(access: Access) -> Client:
            return Client(access, transport=self.api, jitter=lambda: 0.0)

        joined = await kube_join.join(
            self.directory / name, node=node, say=self.said.append, wait=wait, connect=connect, **given
        )
        joined.state.close()
        return joined

    async def refused(self, **given: Any) -> tuple[str, str]:
        with pytest.raises(RavenError) as caught:
            await self.join(**given)
        return getattr(caught.value, "reason", ""), str(caught.value)

    @asynccontextmanager
    async def signing(self) -> AsyncIterator[None]:
        client = self.api.client()
        cache = Cache(client, CERTIFICATE_REQUESTS, log=log.get("test"))
        reconcile = CertificateReconciler(
            client, cache.objects, cluster=self.world.state.cluster, sign=self._sign, wall=time.time
        )

        async def work() -> None:
            while True:
                for name in list(cache.objects):
                    await reconcile(name)
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.run)
            nursery.start_soon(work)
            yield
            nursery.cancel_scope.cancel()

    async def _sign(self, node: str, pem: str, asker: str) -> str:
        key = read_csr_untrusted(pem)
        return self.authority.issue_node(self.issue(node), key, now=time.time(), random=seeded()).pem

    def requests(self) -> list[str]:
        return [one["metadata"]["name"] for one in self.api.all(CSRS)]

    def approve(self, name: str) -> None:
        conditions = [{"type": "Approved", "status": "True", "reason": "Known", "message": "by hand"}]
        self.api.change(CSRS, name, {"status": {"conditions": conditions}})


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running(tmp_path / "gateway") as world:
        yield Edge(tmp_path, world)


async def test_a_kubelets_identity_needs_no_token(edge: Edge) -> None:
    async with edge.signing():
        joined = await edge.join(kubeconfig=edge.kubelet("shop-1"))
    assert (joined.state.node, joined.state.cluster) == ("shop-1", edge.world.state.cluster)
    assert abs(joined.clock_skew) < 5
    state = open_agent(edge.directory / "agent", now=time.time())
    assert state.gateways == (str(edge.world.address),)
    state.close()
    assert {one.name for one in (edge.directory / "agent").iterdir()} == {
        *("lock", "node.key", "wg.key", "node.crt", "ca.crt", "agent.json")
    }
    assert edge.said == []


async def test_a_bootstrap_token_joins_its_node(edge: Edge) -> None:
    async with edge.signing():
        assert (await edge.join(node="shop-1", **edge.token("shop-1"))).state.node == "shop-1"


async def test_a_kubeconfig_of_a_bootstrap_token_is_one_too(edge: Edge) -> None:
    edge.token("shop-1")
    path = edge.kube.kubeconfig("ca", "https://api.lan:6443")  # whose client is replaced
    config = json.loads(path.read_text())
    config["users"][0]["user"] = {"token": TOKEN}
    path.write_text(json.dumps(config))
    async with edge.signing():
        assert (await edge.join(node="shop-1", kubeconfig=path)).state.node == "shop-1"


async def test_the_gateway_that_is_given_comes_first(edge: Edge) -> None:
    edge.publish("127.0.0.1:1")
    async with edge.signing():
        given = edge.world.address
        joined = await edge.join(kubeconfig=edge.kubelet("shop-1"), gateway=given)
    assert joined.state.gateways == (str(given), "127.0.0.1:1")


async def test_another_nodes_name_is_denied_and_the_next_try_is_a_new_one(edge: Edge) -> None:
    config = edge.kubelet("shop-1")
    async with edge.signing():
        reason, said = await edge.refused(kubeconfig=config, node="shop-2")
        assert reason == "denied"
        assert "node shop-1 may not have the name shop-2" in said
        assert "try: --node shop-1" in said
        await edge.refused(kubeconfig=config, node="shop-2")
        assert len(edge.requests()) == 2
        assert (await edge.join(kubeconfig=config)).state.node == "shop-1"


async def test_a_token_that_is_bound_to_nobody_says_how_to_bind_it(edge: Edge) -> None:
    async with edge.signing():
        reason, said = await edge.refused(node="shop-1", **edge.token(None))
    assert reason == "denied"
    assert "lacks the annotation" in said
    assert f"secret bootstrap-token-abcdef {NODE_ANNOTATION}=shop-1" in said
    assert TOKEN not in said


async def test_after_an_interruption_the_same_request_goes_on(edge: Edge) -> None:
    """Nobody leads at first; then an administrator approves, and a gateway signs what is there."""
    edge.api.user = "alice", ()
    config = edge.kube.kubeconfig(str(edge.kube.sign("alice", "alice").name), "https://api.lan:6443")
    reason, said = await edge.refused(kubeconfig=config, node="shop-1", wait=4.0)
    assert reason == "pending"
    (name,) = edge.requests()
    assert edge.said == [f"waiting for approval: kubectl certificate approve {name}"]
    assert "An administrator has to approve it" in said
    assert "the same command again goes on" in said
    edge.approve(name)
    reason, said = await edge.refused(kubeconfig=config, node="shop-1", wait=0.0)
    assert reason == "unsigned"
    assert "kubectl -n raven-system logs daemonset/raven-gateway" in said
    async with edge.signing():
        assert (await edge.join(kubeconfig=config, node="shop-1")).state.node == "shop-1"
    assert edge.requests() == [name]


async def test_a_kubelet_that_nobody_answers_hears_that_no_gateway_leads(edge: Edge) -> None:
    reason, said = await edge.refused(kubeconfig=edge.kubelet("shop-1"), wait=0.0)
    assert reason == "pending"
    assert "A gateway that leads does that by itself, so none does" in said


@pytest.mark.parametrize("what", ["authority", "name", "cluster"])
async def test_a_certificate_that_is_not_ours_is_not_kept(edge: Edge, what: str) -> None:
    if what == "authority":
        edge.authority = make_authority(edge.world.state.cluster, now=time.time())
    elif what == "name":
        edge.issue = lambda node: "shop-2"
    else:
        edge.authority = make_authority("other", now=time.time())
    async with edge.signing():
        with pytest.raises(PeerError):
            await edge.join(kubeconfig=edge.kubelet("shop-1"))
        assert not (edge.directory / "agent" / "agent.json").exists()
        edge.authority, edge.issue = edge.world.state.authority, lambda node: node
        await edge.join(kubeconfig=edge.kubelet("shop-1"))
    assert len(edge.requests()) == 2


async def test_a_gateway_that_is_not_there_costs_no_request(edge: Edge) -> None:
    edge.publish("127.0.0.1:1", "127.0.0.1:2")
    reason, said = await edge.refused(kubeconfig=edge.kubelet("shop-1"))
    assert reason == "unreachable"
    for part in ("the API server answers", "127.0.0.1:1 cannot", "127.0.0.1:2 cannot", "ravenctl netcheck"):
        assert part in said
    assert edge.requests() == []


async def test_one_gateway_that_answers_is_enough(edge: Edge) -> None:
    edge.publish("127.0.0.1:1", str(edge.world.address))
    async with edge.signing():
        joined = await edge.join(kubeconfig=edge.kubelet("shop-1"))
    assert joined.state.gateways == ("127.0.0.1:1", str(edge.world.address))


@pytest.mark.parametrize("what", ["ca", "cluster"])
async def test_a_gateway_that_is_not_the_clusters_is_asked_for_nothing(edge: Edge, what: str) -> None:
    if what == "ca":
        edge.publish(str(edge.world.address), ca_pem=make_authority(seed=5).certificate_pem)
    else:
        edge.publish(str(edge.world.address), cluster="other")
    reason, said = await edge.refused(kubeconfig=edge.kubelet("shop-1"))
    assert reason == "unreachable"
    assert ("raven-cluster-info tells of" if what == "ca" else "expected other") in said
    assert str(edge.world.address) in said
    assert edge.requests() == []


def refusing(code: int, reason: str, part: str) -> Callable[[httpx.Request], httpx.Response | None]:
    return lambda request: status(code, reason, "no") if part in request.url.path else None


def breaking(why: Exception) -> Callable[[httpx.Request], httpx.Response | None]:
    def fault(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ConnectError("", request=request) from why

    return fault


BAD_CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")
BAD_CERTIFICATE.verify_message = "self-signed"


@pytest.mark.parametrize(
    ("fault", "reason", "parts"),
    [
        (
            breaking(ConnectionRefusedError(111, "refused")),
            "unreachable",
            ["API server cannot be reached", "curl -k https://api.lan:6443"],
        ),
        (breaking(BAD_CERTIFICATE), "untrusted", ["self-signed", "clock", "Nothing was sent"]),
        (refusing(401, "Unauthorized", "/"), "unauthorized", ["bootstrap token abcdef", "expired"]),
        (
            refusing(403, "Forbidden", "configmaps"),
            "forbidden",
            ["raven-cluster-info", "-k deploy/kubernetes"],
        ),
        (refusing(403, "Forbidden", CSRS), "forbidden", ["deploy/kubernetes/bootstrap-tokens"]),
        (refusing(404, "NotFound", "configmaps"), "no-cluster-info", ["no gateway has published", "logs"]),
    ],
)
async def test_each_broken_hop_is_named(edge: Edge, fault: Any, reason: str, parts: list[str]) -> None:
    given = edge.token("shop-1")
    edge.api.fault = fault
    said, sentence = await edge.refused(node="shop-1", **given)
    assert said == reason
    for part in parts:
        assert part in sentence
    assert TOKEN not in sentence


async def test_an_expired_kubelet_certificate_is_named(edge: Edge) -> None:
    config = edge.kubelet("shop-1")
    edge.api.fault = refusing(401, "Unauthorized", "/")
    _, said = await edge.refused(kubeconfig=config)
    assert str(config) in said
    assert "systemctl status kubelet" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"token": "raven1.a.b.c"}, "give --gateway instead"),
        ({"token": "secret!"}, "expected a bootstrap token"),
        ({"api_server": "http://h:1"}, "expected HOST:PORT or https"),
        ({"api_ca": "/nowhere"}, "not a CA's certificate"),
        ({"api_ca": "sha256:12"}, "64 hexadecimal"),
        ({"node": "a" * 65}, "64 characters"),
        ({"node": "Shop"}, "--node"),
    ],
)
async def test_options_that_cannot_be_used(edge: Edge, given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        await edge.join(**{"node": "shop-1", **edge.token("shop-1"), **given})
    assert "secret!" not in str(caught.value)
    assert not (edge.directory / "agent").exists()


async def test_no_secret_is_in_a_repr(edge: Edge) -> None:
    given = edge.token("shop-1")
    token = await kube_join.find_standing(kubeconfig=None, **given, connect=Client)
    key = await kube_join.find_standing(
        kubeconfig=edge.kubelet("shop-1"), api_server="", api_ca="", token="", connect=Client
    )
    assert (token.asker, key.asker) == ("system:bootstrap:abcdef", "system:node:shop-1")
    for shown in (repr(token), repr(key)):
        assert TOKEN.partition(".")[2] not in shown
        assert "PRIVATE" not in shown


def test_who_does_not_join_this_way_does_not_pay_for_it() -> None:
    code = "import sys, agent.main, agent.app, agent.join; print({'httpx', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--gateway", "h:1"],
        ["--token", "-"],
        ["--gateway", "h:1", "--token", "-", "--api-ca", "f"],
        ["--kubeconfig", "f", "--token", "-"],
        ["--kubeconfig", "f", "--api-server", "h:1"],
        ["--api-server", "h:1", "--token", "-"],
        ["--api-server", "h:1", "--api-ca", "f"],
    ],
)
def test_options_that_are_no_way_to_join(words: list[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from agent.main import main; main()",
        "join",
        "--state-dir",
        str(tmp_path),
    ]
    done = subprocess.run([*command, *words], capture_output=True, text=True, input="", check=False)
    assert done.returncode == 2
    assert "--kubeconfig" in done.stderr or "--api-server" in done.stderr
