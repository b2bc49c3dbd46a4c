"""Edges that join by a real API server: a gateway with its least rights signs, each name for its own node."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tests.authority import Authority
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.joining import AGENTS, INFO, SECONDS, TOKEN, TOKEN_ID, TOKEN_SECRET, Joining
from tests.lab import wires
from tests.lab.errors import LabError
from tests.lab.process import Process
from tests.lab.waiting import wait_until

OURS = "system:bootstrappers:raven"  # the group that docs/install-kubernetes.md gives a token
CSRS = "system:certificates.k8s.io:certificatesigningrequests"
KUBEADMS = "system:bootstrappers:kubeadm:default-node-token"


def bootstrap_token(
    cluster: Cluster, node: str, *, expires: str = "", id: str = TOKEN_ID, group: str = OURS
) -> None:
    """A bootstrap token as kubeadm makes it, bound to `node`."""
    meta: dict[str, Any] = {"name": f"bootstrap-token-{id}", "namespace": "kube-system"}
    if node:
        meta["annotations"] = {"raven.openyurt.io/node": node}
    data = {"token-id": id, "token-secret": TOKEN_SECRET, "usage-bootstrap-authentication": "true"}
    data["auth-extra-groups"] = group
    if expires:
        data["expiration"] = expires
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token"}
    cluster.server.kubectl("delete", "secret", "-n", "kube-system", meta["name"], "--ignore-not-found")
    cluster.server.apply({**secret, "metadata": meta, "stringData": data})


def wait_for_token(joining: Joining, code: int) -> None:
    """The API server hears of a changed token by a watch of its own."""
    url = f"{joining.cluster.server.url}/api/v1/namespaces/kube-public/configmaps/raven-cluster-info"
    command = (
        "curl",
        "-sk",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        f"Authorization: Bearer {TOKEN}",
        url,
    )
    cloud = joining.cluster.world.cloud
    wait_until(lambda: cloud.run(*command).out == str(code), what=f"{code} for the token", seconds=SECONDS)


def test_a_kubelets_identity_joins_and_its_tunnel_comes_up(joining: Joining) -> None:
    kubelet = joining.kubelet("a")
    joined = joining.join("a", "kubelet", "--kubeconfig", str(kubelet))
    assert joined.code == 0, joined.err
    assert "as node site-a" in joined.out
    (request,) = joining.requests("site-a")
    assert request["spec"]["username"] == "system:node:site-a"
    assert [one["type"] for one in request["status"]["conditions"]] == ["Approved"]
    machine = joining.machine("a")
    agent = machine.start(
        *("raven-agent", "run", "--no-packets", "--state-dir", str(joining.state("a", "kubelet"))),
        *("--socket", str(machine.directory / "join.sock"), "--metrics-listen", "off"),
        name="raven-agent@join",
    )
    try:
        wait_until(
            lambda: joining.nodes().get("site-a", {}).get("stream_lane") == "up",
            what="the tunnel of site-a",
            seconds=SECONDS,
        )
    except LabError as error:
        raise LabError(f"{error}; {joining.nodes()}\n{agent.tail()}\n{joining.gateway.tail()}") from None
    finally:
        agent.stop()
    again = joining.join("a", "kubelet", "--kubeconfig", str(kubelet))
    assert (again.code, "already joined as node site-a" in again.err) == (1, True), again
    assert joining.join("a", "kubelet", "--kubeconfig", str(kubelet), "--force").code == 0


def test_a_kubelet_cannot_have_another_nodes_name(joining: Joining) -> None:
    refused = joining.join("a", "thief", "--kubeconfig", str(joining.kubelet("a")), "--node", "site-b")
    assert refused.code == 1
    assert "node site-a may not have the name site-b" in refused.err
    assert not (joining.state("a", "thief") / "agent.json").exists()
    assert [one["status"].get("certificate") for one in joining.requests("site-b")] == [None]


def test_a_bootstrap_token_joins_the_node_it_is_for(joining: Joining) -> None:
    cluster = joining.cluster
    bootstrap_token(cluster, "site-b")
    wait_for_token(joining, 200)
    refused = joining.by_token("b", "token", "--node", "site-a")
    assert (refused.code, "is for node site-b, not for site-a" in refused.err) == (1, True), refused
    joined = joining.by_token("b", "token", "--node", "site-b")
    assert joined.code == 0, joined.err
    assert TOKEN_SECRET not in refused.err + joined.err + joined.out
    by_hash = joining.by_token("b", "hash", "--node", "site-b", api_ca=_publish_ca(cluster))
    assert by_hash.code == 0, by_hash.err
    wrong = joining.by_token("b", "wrong", "--node", "site-b", api_ca=f"sha256:{'0' * 64}")
    assert (wrong.code, "another key than sha256:000" in wrong.err) == (1, True), wrong


def test_a_token_of_our_group_makes_no_kubelet(joining: Joining) -> None:
    """Where kubeadm has set the cluster up, one of its own group makes any, which is why ours has another."""
    cluster = joining.cluster
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
    everybody = {"kind": "Group", "name": KUBEADMS, "apiGroup": "rbac.authorization.k8s.io"}
    roles = {
        "kubeadm:kubelet-bootstrap": "system:node-bootstrapper",
        "kubeadm:node-autoapprove-bootstrap": f"{CSRS}:nodeclient",
    }
    cluster.server.apply(
        *(
            {
                **rbac,
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [everybody],
            }
            for name, role in roles.items()
        )
    )
    bootstrap_token(cluster, "site-b")
    bootstrap_token(cluster, "site-b", id="kubead", group=KUBEADMS)
    for name, id in (("kubelet-by-ours", TOKEN_ID), ("kubelet-by-kubeadms", "kubead")):
        made = lambda name=name, id=id: _asks_for_kubelet(joining, name, f"{id}.{TOKEN_SECRET}")  # noqa: E731
        wait_until(made, what=name, seconds=SECONDS)

    def conditions(name: str) -> list[str]:
        status = cluster.server.json("get", "certificatesigningrequests", name).get("status", {})
        return [one["type"] for one in status.get("conditions", [])]

    wait_until(lambda: conditions("kubelet-by-kubeadms") == ["Approved"], what="a kubelet", seconds=SECONDS)
    assert conditions("kubelet-by-ours") == []
    cluster.server.kubectl("delete", "secret", "-n", "kube-system", "bootstrap-token-kubead")


def _asks_for_kubelet(joining: Joining, name: str, token: str) -> bool:
    """Makes the certificate request that the kubelet of site-c would make."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, "system:node:site-c"),
        ]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    request = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(csr.public_bytes(Encoding.PEM)).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["key encipherment", "digital signature", "client auth"],
        },
    }
    url = f"{joining.cluster.server.url}/apis/certificates.k8s.io/v1/certificatesigningrequests"
    headers = ("-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json")
    command = ("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", *headers, "-d", "@-", url)
    return joining.cluster.world.cloud.run(*command, text=json.dumps(request)).out == "201"


def _publish_ca(cluster: Cluster) -> str:
    """kubeadm's cluster-info, which everybody may read; the hash that kubeadm prints."""
    pem = cluster.authority.certificate.read_bytes()
    certificate_authority = base64.b64encode(pem).decode("ascii")
    kubeconfig = {
        "clusters": [{"name": "", "cluster": {"certificate-authority-data": certificate_authority}}]
    }
    meta = {"name": "cluster-info", "namespace": "kube-public"}
    rbac = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {**meta, "name": "kubeadm:cluster-info"},
    }
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kubeadm:cluster-info"}
    everybody = {"kind": "User", "name": "system:anonymous", "apiGroup": "rbac.authorization.k8s.io"}
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["cluster-info"],
        "verbs": ["get"],
    }
    cluster.server.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta,
            "data": {"kubeconfig": json.dumps(kubeconfig)},
        },
        {**rbac, "kind": "Role", "rules": [rule]},
        {**rbac, "kind": "RoleBinding", "roleRef": reference, "subjects": [everybody]},
    )
    key = x509.load_pem_x509_certificate(pem).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def test_each_broken_hop_is_named(joining: Joining, tmp_path: Path) -> None:
    cluster = joining.cluster
    stranger = Authority(tmp_path / "stranger", "stranger-ca")
    for said, done in {
        "shows a certificate we do not believe": joining.by_token(
            "b", "hops", "--node", "site-b", api_ca=str(stranger.certificate)
        ),
        "does not know bootstrap token nobody": joining.by_token(
            "b", "hops", "--node", "site-b", token="nobody.0123456789abcdef"
        ),
        "the API server cannot be reached": joining.join(
            "b",
            "hops",
            *("--api-server", f"{wires.CLOUD}:1", "--api-ca", str(cluster.authority.certificate)),
            *("--token", "-", "--node", "site-b"),
            text=TOKEN,
        ),
    }.items():
        assert (done.code, said in done.err) == (1, True), done
    bootstrap_token(cluster, "site-b", expires="2020-01-01T00:00:00Z")
    wait_for_token(joining, 401)
    expired = joining.by_token("b", "hops", "--node", "site-b")
    assert (expired.code, "it has expired" in expired.err) == (1, True), expired


def test_an_administrator_approves_and_the_interrupted_join_goes_on(joining: Joining) -> None:
    cluster, server = joining.cluster, joining.cluster.server
    cluster.authority.sign("alice", "alice", groups=["system:bootstrappers"])
    alice = cluster.authority.kubeconfig("alice", server.url)
    command = joining.command("b", "alice", "--kubeconfig", str(alice), "--node", "site-c")

    def started(number: int) -> tuple[Process, str]:
        process = joining.machine("b").start(*command, name=f"join-alice-{number}")
        question = re.compile(r"kubectl certificate approve (\S+)")
        wait_until(lambda: question.search(process.text()) is not None, what="the question", seconds=SECONDS)
        return process, question.findall(process.text())[0]

    first, name = started(1)
    first.kill()
    second, again = started(2)
    assert again == name
    server.kubectl("certificate", "approve", name)
    assert second.wait(SECONDS) == 0, second.text()
    assert "joined cluster" in second.text()
    assert len(joining.requests("site-c")) == 1


def test_what_edges_read_comes_back(joining: Joining) -> None:
    server = joining.cluster.server
    before = server.json("get", *INFO)["data"]
    assert f"joining {AGENTS}\n" in before["gateways"]
    server.kubectl("delete", *INFO)
    wait_until(
        lambda: server.kubectl("get", *INFO, check=False).code == 0, what="the cluster info", seconds=SECONDS
    )
    assert server.json("get", *INFO)["data"] == before
