"""Every object of the registry as it goes into the API and comes back, and what is refused there."""

import dataclasses

import msgspec
import pytest

from raven.kube.resources import CONFIG_MAPS, SECRETS, ConfigMap, Secret, secret_data
from raven.registry.interface import CredentialRecord, TokenRecord
from raven.registry.kubernetes_node import SharedCertificate, SharedNode
from raven.registry.kubernetes_objects import (
    HeldToken,
    ca_object,
    credential_object,
    node_object,
    node_object_name,
    read_ca,
    read_credential,
    read_node,
    read_token,
    token_object,
    with_node,
)
from raven.registry.shared_ca import PreviousCa, SharedCa

NOW = 1_800_000_000.25
TOKEN = TokenRecord(
    id="aB_-09xY", secret_hash=bytes(32), node=None, reusable=False, created=NOW, expires=NOW + 3600
)
NODE = SharedNode(
    name="shop-1",
    created=NOW,
    public_key=bytes(range(32)),
    pod_cidrs=("10.42.1.0/24",),
    software="raven 0.1.0",
    address="192.168.1.7",
    pod_allow=("10.42.0.0/16",),
    certificates=(
        SharedCertificate(
            serial="0A",
            key_hash=b"k" * 32,
            not_before=NOW - 3600,
            not_after=NOW + 1e6,
            issued=NOW,
            token="aB_-09xY",
            revoked=NOW + 5,
        ),
        SharedCertificate(
            serial="0B", key_hash=b"l" * 32, not_before=NOW, not_after=NOW + 1e6, issued=NOW + 5, pem="pem"
        ),
    ),
)


def through_the_api(obj: ConfigMap | Secret) -> ConfigMap | Secret:
    """The object as the API server gives it back."""
    if isinstance(obj, Secret):
        return msgspec.json.decode(SECRETS.encode(obj), type=Secret)
    return msgspec.json.decode(CONFIG_MAPS.encode(obj), type=ConfigMap)


@pytest.mark.parametrize("node", [NODE, SharedNode(name="a", created=0.0)])
def test_a_node_comes_back_as_it_went(node: SharedNode) -> None:
    obj = through_the_api(node_object(node, namespace="raven-system"))
    assert isinstance(obj, ConfigMap)
    assert read_node(obj) == node
    assert read_node(with_node(obj, msgspec.structs.replace(node, software="2"))).software == "2"
    assert obj.metadata.labels == {"raven.openyurt.io/registry": "node"}


def test_names_that_are_too_long_have_objects_of_their_own() -> None:
    names = [f"{'a' * 120}.{letter * 125}" for letter in "bc"]
    assert len({node_object_name(name) for name in names}) == 2
    for name in [*names, "shop-1"]:
        assert len(node_object_name(name)) <= 253
        obj = node_object(SharedNode(name=name, created=0.0), namespace="n")
        assert read_node(obj).name == name


@pytest.mark.parametrize(
    "held",
    [
        HeldToken(TOKEN),
        HeldToken(
            dataclasses.replace(
                TOKEN, node="shop-1", uses=1, used=NOW + 1, used_by="shop-1", pod_cidrs=("10.0.0.0/8",)
            ),
            b"k" * 32,
        ),
        HeldToken(dataclasses.replace(TOKEN, reusable=True, uses=40, role="gateway")),
    ],
)
def test_a_token_comes_back_as_it_went(held: HeldToken) -> None:
    obj = through_the_api(token_object(held, namespace="raven-system"))
    assert isinstance(obj, Secret)
    assert read_token(obj) == held
    assert obj.type == "raven.openyurt.io/token"


@pytest.mark.parametrize(
    "record",
    [
        CredentialRecord(
            id="x_Y", kind="token", name="ci", secret_hash=b"h" * 32, created=NOW, expires=NOW + 1
        ),
        CredentialRecord(
            id="0AFF", kind="certificate", name="ops", created=NOW, expires=NOW + 1, revoked=NOW + 0.5
        ),
    ],
)
def test_a_credential_comes_back_as_it_went(record: CredentialRecord) -> None:
    obj = through_the_api(credential_object(record, namespace="raven-system"))
    assert isinstance(obj, Secret)
    assert read_credential(obj) == record


PREVIOUS = PreviousCa(certificate_pem="old", key_pem="old key", link_pem="link", until=NOW)


@pytest.mark.parametrize("previous", [None, PREVIOUS])
def test_the_ca_comes_back_as_it_went_and_shows_no_key(previous: PreviousCa | None) -> None:
    ca = SharedCa(cluster="c", certificate_pem="crt", key_pem="secret key", previous=previous)
    obj = through_the_api(ca_object(ca, namespace="raven-system"))
    assert isinstance(obj, Secret)
    assert read_ca(obj) == ca
    assert "key" not in repr(ca).replace("key_pem", "")
    assert "secret" not in repr(obj)


def test_the_secret_of_a_token_is_not_in_its_object() -> None:
    text = token_object(HeldToken(TOKEN), namespace="n").data
    assert set(text) == {"token-id", "secret-hash", "role", "created", "expiration", "uses"}


def _with(obj: Secret, **values: str) -> Secret:
    data = {**obj.data, **secret_data({key.replace("_", "-"): value for key, value in values.items()})}
    return msgspec.structs.replace(obj, data=data)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"token_id": "other"}, "token-id is not of this object"),
        ({"secret_hash": "00"}, "secret-hash has to be a SHA-256"),
        ({"expiration": "soon"}, "expiration have to be times"),
        ({"uses": "-1"}, "uses has to be a number"),
        ({"role": "king"}, "role has to be"),
        ({"used_key": "zz"}, "used-key has to be"),
    ],
)
def test_a_token_that_somebody_spoiled_is_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_token(_with(token_object(HeldToken(TOKEN), namespace="n"), **values))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"name": "shop-2", "created": 1}', '{"name": "shop-1"}', "[" * 100_000]
)
def test_a_node_that_somebody_spoiled_is_refused(text: str) -> None:
    obj = node_object(NODE, namespace="n")
    with pytest.raises(ValueError, match="raven-node-shop-1"):
        read_node(msgspec.structs.replace(obj, data={"node": text}))
