"""Who may have whose name: every pair of asker and name, and the way of a request through the API server."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from gateway.controllers.certificates import CertificateReconciler, judge
from raven import log
from raven.errors import RefusedError
from raven.kube.errors import KubeError
from raven.kube.objects import Meta
from raven.kube.resources import CERTIFICATE_REQUESTS, SECRETS, CertificateSigningRequest, Secret
from raven.kube.signing import NODE_ANNOTATION
from raven.kube.watch import Cache
from raven.pki.csr import make_csr
from tests.gateway.controllers.requests import request
from tests.kube.fake import FakeApi
from tests.kube.fake import status as refusal
from tests.pki.material import make_key

CLUSTER = "lab"


def csr(*names: str, uris: tuple[str, ...] = (), dns: tuple[str, ...] = (), ca: bool = False) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    alternatives = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    request = builder.sign(make_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def token(node: str | None, *, type: str = "bootstrap.kubernetes.io/token") -> Secret:
    annotations = {NODE_ANNOTATION: node} if node else {}
    return Secret(
        metadata=Meta(name="bootstrap-token-abcdef", namespace="kube-system", annotations=annotations),
        type=type,
    )


NODE = ("system:node:a", "system:nodes")
TOKEN = ("system:bootstrap:abcdef", "system:bootstrappers")


@pytest.mark.parametrize(
    ("verdict", "asked", "held"),
    [
        ("approve", request(make_csr(make_key(), "a"), *NODE), None),
        ("approve", request(csr("a", uris=("raven://lab/node/a",)), *NODE), None),
        ("approve", request(csr("a"), *TOKEN), token("a")),
        ("deny", request(csr("b"), *NODE), None),  # another's name
        ("deny", request(csr("a", uris=("raven://lab/node/b",)), *NODE), None),  # its own, and another's
        ("deny", request(csr("a", uris=("raven://lab/gateway/a",)), *NODE), None),
        ("deny", request(csr("a", uris=("raven://other/node/a",)), *NODE), None),
        ("deny", request(csr("a", dns=("gateway.example.com",)), *NODE), None),
        ("deny", request(csr("a", "b"), *NODE), None),
        ("deny", request(csr(), *NODE), None),
        ("deny", request(csr("a", ca=True), *NODE), None),
        ("deny", request(csr("a"), *NODE, usages=("client auth", "server auth")), None),
        ("deny", request(csr("a"), *NODE, usages=("digital signature",)), None),
        ("deny", request("nonsense", *NODE), None),
        ("deny", request(csr("A_B"), "system:node:A_B", "system:nodes"), None),
        ("wait", request(csr("a"), "system:node:a"), None),  # the name without the group is nobody
        ("wait", request(csr("a"), "system:admin", "system:masters"), None),
        ("deny", request(csr("b"), *TOKEN), token("a")),
        ("deny", request(csr("a"), *TOKEN), token(None)),
        ("deny", request(csr("a"), *TOKEN), token("a", type="Opaque")),
        ("deny", request(csr("a"), *TOKEN), None),
        ("wait", request(csr("a"), "system:bootstrap:abcdef"), token("a")),
    ],
)
def test_verdicts(verdict: str, asked: CertificateSigningRequest, held: Secret | None) -> None:
    found = judge(asked, cluster=CLUSTER, token=held)
    assert found.what == verdict, found
    assert found.message


class Signer:
    """Remembers what it was asked to sign."""

    def __init__(self) -> None:
        self.signed: list[tuple[str, str]] = []
        self.refuse: RefusedError | None = None

    async def __call__(self, node: str, pem: str, asker: str) -> str:
        if self.refuse is not None:
            raise self.refuse
        self.signed.append((node, asker))
        return f"certificate of {node}"


async def reconciled(api: FakeApi, signer: Signer) -> None:
    """Everything that can be done about what is there now."""
    cache = Cache(api.client(), CERTIFICATE_REQUESTS, log=log.get("test"))
    reconcile = CertificateReconciler(
        api.client(), cache.objects, cluster=CLUSTER, sign=signer, wall=lambda: 1.8e9
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.run)
        await cache.synced.wait()
        for _ in range(3):
            for name in list(cache.objects):
                await reconcile(name)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()


def state(api: FakeApi) -> tuple[list[str], str]:
    status = api.objects["certificatesigningrequests", "r"].get("status", {})
    types = [one["type"] for one in status.get("conditions", [])]
    return types, base64.b64decode(status.get("certificate", "")).decode()


async def test_a_bootstrap_token_gets_its_own_node_signed_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api, signer = FakeApi(), Signer()
    api.add(SECRETS, token("a"))
    api.add(CERTIFICATE_REQUESTS, request(csr("a"), *TOKEN))
    await reconciled(api, signer)
    assert state(api) == (["Approved"], "certificate of a")
    assert signer.signed == [("a", "system:bootstrap:abcdef")]


async def test_a_request_whose_certificate_has_not_come_back_yet_is_not_signed_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each signature registers the node anew and ends the certificate before, which the node has by then."""
    api, signer = FakeApi(), Signer()
    api.add(CERTIFICATE_REQUESTS, request(csr("a"), *NODE))
    approved = [{"type": "Approved", "status": "True"}]
    api.change("certificatesigningrequests", "r", {"status": {"conditions": approved}})
    client = api.client()
    page = await client.list(CERTIFICATE_REQUESTS)
    stale = {one.metadata.name: one for one in page.items}  # as a watch that lags shows it
    reconcile = CertificateReconciler(client, stale, cluster=CLUSTER, sign=signer, wall=lambda: 1.8e9)
    assert await reconcile("r") == "signed for node a"
    told = state(api)
    with suppress(KubeError):  # a conflict, which is looked at again
        await reconcile("r")
    assert (len(signer.signed), state(api)) == (1, told)


async def test_another_name_is_denied_and_never_signed(autojump_clock: trio.testing.MockClock) -> None:
    api, signer = FakeApi(), Signer()
    api.add(SECRETS, token("a"))
    api.add(CERTIFICATE_REQUESTS, request(csr("b"), *TOKEN))
    await reconciled(api, signer)
    assert state(api) == (["Denied"], "")
    assert signer.signed == []


async def test_an_administrators_approval_counts_but_not_for_everything(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api, signer = FakeApi(), Signer()
    api.add(CERTIFICATE_REQUESTS, request(csr("a"), "alice"))
    await reconciled(api, signer)
    assert state(api) == ([], "")
    approved = [{"type": "Approved", "status": "True", "reason": "Known", "message": "by hand"}]
    api.change("certificatesigningrequests", "r", {"status": {"conditions": approved}})
    await reconciled(api, signer)
    assert state(api) == (["Approved"], "certificate of a")
    api.remove("certificatesigningrequests", "r")
    forged = request(csr("a", uris=("raven://lab/gateway/a",)), "alice")
    api.add(CERTIFICATE_REQUESTS, forged)
    api.change("certificatesigningrequests", "r", {"status": {"conditions": approved}})
    await reconciled(api, signer)
    assert state(api) == (["Approved", "Failed"], "")
    assert len(signer.signed) == 1


async def test_a_token_that_may_not_be_read_waits_for_an_administrator(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api, signer = FakeApi(), Signer()
    api.fault = lambda asked: refusal(403, "Forbidden", "no") if "/secrets/" in asked.url.path else None
    api.add(SECRETS, token("a"))
    api.add(CERTIFICATE_REQUESTS, request(csr("a"), *TOKEN))
    with pytest.raises(ExceptionGroup) as caught:  # a queue comes back to it
        await reconciled(api, signer)
    assert caught.group_contains(KubeError, match="get secrets bootstrap-token-abcdef", depth=1)
    assert state(api) == ([], "")
    approved = [{"type": "Approved", "status": "True", "reason": "Known", "message": "by hand"}]
    api.change("certificatesigningrequests", "r", {"status": {"conditions": approved}})
    await reconciled(api, signer)
    assert state(api) == (["Approved"], "certificate of a")


async def test_what_cannot_be_signed_says_why(autojump_clock: trio.testing.MockClock) -> None:
    api, signer = FakeApi(), Signer()
    signer.refuse = RefusedError("renew-often", "just now")
    api.add(CERTIFICATE_REQUESTS, request(csr("a"), *NODE))
    await reconciled(api, signer)
    assert state(api) == (["Approved", "Failed"], "")


async def test_other_signers_requests_are_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    api, signer = FakeApi(), Signer()
    body = {
        "metadata": {"name": "r"},
        "spec": {"request": "", "signerName": "kubernetes.io/kube-apiserver-client", "usages": []},
    }
    api.add(CERTIFICATE_REQUESTS, body)
    await reconciled(api, signer)
    assert state(api) == ([], "")
    assert not any("PATCH" in line for line in api.requests)
