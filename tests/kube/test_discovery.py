"""The API server's CA by the hash of its key: what kubeadm's clusters publish, and what impostors might."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from raven.errors import ConfigError, RefusedError
from raven.kube.access import Access
from raven.kube.client import Client
from raven.kube.discovery import find_ca, parse_pin
from raven.kube.objects import Meta
from raven.kube.resources import CONFIG_MAPS, ConfigMap
from tests.authority import Authority
from tests.kube.fake import FakeApi, status

pytestmark = pytest.mark.usefixtures("autojump_clock")


def made(directory: Path, name: str) -> tuple[str, bytes]:
    """A CA's certificate, and the hash of its key as openssl would print it."""
    pem = Authority(directory / name, name).certificate.read_bytes()
    key = x509.load_pem_x509_certificate(pem).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode(), hashlib.sha256(der).digest()


def telling(*pems: str) -> FakeApi:
    data = base64.b64encode("".join(pems).encode()).decode()
    config = {"clusters": [{"name": "", "cluster": {"certificate-authority-data": data}}]}
    return saying(yaml.safe_dump(config))


def saying(kubeconfig: str) -> FakeApi:
    api = FakeApi()
    meta = Meta(name="cluster-info", namespace="kube-public")
    api.add(CONFIG_MAPS, ConfigMap(metadata=meta, data={"kubeconfig": kubeconfig}))
    return api


async def found(api: FakeApi, pin: bytes) -> str:
    shown: list[str | None] = []

    def look(request: httpx.Request) -> httpx.Response | None:
        shown.append(request.headers.get("authorization"))
        return fault(request) if fault else None

    fault, api.fault = api.fault, look

    def connect(access: Access) -> Client:
        assert access.token is None
        return Client(access, transport=api, jitter=lambda: 0.5)

    try:
        return await find_ca("https://api.lan:6443", pin, connect=connect)
    finally:
        assert set(shown) == {None}  # whoever answers is not known yet


async def test_the_certificate_with_the_hash_is_believed_and_nothing_beside_it(tmp_path: Path) -> None:
    good, pin = made(tmp_path, "good")
    other, _ = made(tmp_path, "other")
    assert await found(telling(good), pin) == good
    assert await found(telling(other, good), pin) == good


async def test_another_ca_is_not_believed(tmp_path: Path) -> None:
    _, pin = made(tmp_path, "good")
    other, _ = made(tmp_path, "other")
    with pytest.raises(RefusedError, match=r"another key than sha256:.*The token was not sent") as caught:
        await found(telling(other), pin)
    assert caught.value.reason == "wrong-ca"


@pytest.mark.parametrize("text", ["", "}{", "[]", "clusters: []", "clusters: [{cluster: {}}]", "a" * 300_000])
async def test_nonsense_is_another_ca(text: str) -> None:
    with pytest.raises(RefusedError, match="another key"):
        await found(saying(text), bytes(32))


async def test_a_cluster_that_does_not_tell_asks_for_the_file() -> None:
    for api, fault in (
        (FakeApi(), None),
        (saying(""), lambda request: status(403, "Forbidden", "anonymous may not")),
        (saying(""), lambda request: status(401, "Unauthorized", "who are you")),
    ):
        api.fault = fault
        with pytest.raises(ConfigError, match="--api-ca FILE"):
            await found(api, bytes(32))


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:xy", "sha256:" + "0" * 63, "sha1:" + "0" * 40])
def test_what_is_no_hash(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal"):
        parse_pin(text)


def test_a_hash_as_kubeadm_prints_it() -> None:
    assert parse_pin("sha256:" + "0A" * 32) == b"\n" * 32
