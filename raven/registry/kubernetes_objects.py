"""The registry's objects in the gateways' namespace: how a node, a token, a credential and the CA are kept.

Nodes are ConfigMaps: there is no secret in them, and who may look at nodes need not see the CA's key. Tokens,
credentials and the CA are Secrets, with a type of their own each. All carry one label, by which they are
watched. Whoever may write here rules the cluster's tunnels: what is read is checked for form, not for lies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from raven.kube.objects import Meta, moment, timestamp
from raven.kube.resources import ConfigMap, Secret, secret_data
from raven.names import is_cluster, is_name
from raven.registry.interface import CredentialRecord, TokenRecord
from raven.registry.kubernetes_node import SharedNode
from raven.registry.shared_ca import PreviousCa, SharedCa

LABEL = "raven.openyurt.io/registry"  # of every object here: node, token, credential or ca
TOKEN_TYPE = "raven.openyurt.io/token"
CREDENTIAL_TYPE = "raven.openyurt.io/credential"
CA_TYPE = "raven.openyurt.io/ca"
CA_NAME = "raven-ca"
NODE_KEY = "node"  # of a node's ConfigMap: the record in JSON
_NAME_MAX = 253  # characters of an object's name


@dataclass(frozen=True, slots=True)
class HeldToken:
    """A token's record, and whose key has spent it."""

    record: TokenRecord
    used_key: bytes = b""  # SHA-256 of the SubjectPublicKeyInfo that it was last redeemed for


def node_object_name(node: str) -> str:
    """The name of the node's ConfigMap; a digest where the node's own is too long to stand in it."""
    plain = f"raven-node-{node}"
    if len(plain) <= _NAME_MAX:
        return plain
    return f"raven-node-{hashlib.sha256(node.encode()).hexdigest()}"


def secret_name(kind: str, identifier: str) -> str:
    """Of a token's or credential's Secret; ids have characters that objects' names may not have."""
    return f"raven-{kind}-{hashlib.sha256(identifier.encode()).hexdigest()[:20]}"


def node_object(node: SharedNode, *, namespace: str) -> ConfigMap:
    """The node as it is created."""
    meta = _meta(node_object_name(node.name), namespace, "node")
    return ConfigMap(metadata=meta, data={NODE_KEY: msgspec.json.encode(node).decode()})


def with_node(obj: ConfigMap, node: SharedNode) -> ConfigMap:
    """The object with another record in it, to be patched."""
    data = {**obj.data, NODE_KEY: msgspec.json.encode(node).decode()}
    return msgspec.structs.replace(obj, data=data)


def read_node(obj: ConfigMap) -> SharedNode:
    """ValueError says what is wrong with it."""
    try:
        node = _nodes.decode(obj.data.get(NODE_KEY, ""))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"ConfigMap {obj.metadata.key}: {NODE_KEY}: {error}") from error
    if not is_name(node.name) or obj.metadata.name != node_object_name(node.name):
        raise ValueError(f"ConfigMap {obj.metadata.key}: it is not the object of node {node.name[:64]!r}")
    return node


def token_object(held: HeldToken, *, namespace: str) -> Secret:
    meta = _meta(secret_name("token", held.record.id), namespace, "token")
    return Secret(metadata=meta, type=TOKEN_TYPE, data=token_data(held))


def token_data(held: HeldToken) -> dict[str, str]:
    record = held.record
    values: dict[str, str | bytes] = {
        "token-id": record.id,
        "secret-hash": record.secret_hash.hex(),
        "role": record.role,
        "created": timestamp(record.created, micro=True),
        "expiration": timestamp(record.expires, micro=True),
        "uses": str(record.uses),
    }
    optional = {
        "node": record.node or "",
        "reusable": "true" if record.reusable else "",
        "pod-cidrs": " ".join(record.pod_cidrs),
        "used": timestamp(record.used, micro=True) if record.used is not None else "",
        "used-by": record.used_by or "",
        "used-key": held.used_key.hex(),
    }
    return secret_data({**values, **{key: value for key, value in optional.items() if value}})


def read_token(obj: Secret) -> HeldToken:
    """ValueError says what is wrong with it."""
    text = obj.secret_text
    created, expires = moment(text("created")), moment(text("expiration"))
    uses = text("uses")
    _check(obj, obj.metadata.name == secret_name("token", text("token-id")), "token-id is not of this object")
    _check(obj, obj.type == TOKEN_TYPE, f"expected type {TOKEN_TYPE}")
    _check(obj, created is not None and expires is not None, "created and expiration have to be times")
    _check(obj, uses.isascii() and uses.isdigit() and len(uses) < 10, "uses has to be a number")
    _check(obj, text("role") in ("node", "gateway"), "role has to be node or gateway")
    assert created is not None
    assert expires is not None
    record = TokenRecord(
        id=text("token-id"),
        secret_hash=_digest(obj, "secret-hash"),
        node=text("node") or None,
        reusable=text("reusable") == "true",
        created=created,
        expires=expires,
        uses=int(uses),
        used=moment(text("used")),
        used_by=text("used-by") or None,
        role=text("role"),
        pod_cidrs=tuple(text("pod-cidrs").split()),
    )
    return HeldToken(record, _digest(obj, "used-key") if text("used-key") else b"")


def credential_object(record: CredentialRecord, *, namespace: str) -> Secret:
    meta = _meta(secret_name("credential", record.id), namespace, "credential")
    values: dict[str, str | bytes] = {
        "id": record.id,
        "kind": record.kind,
        "name": record.name,
        "created": timestamp(record.created, micro=True),
        "expiration": timestamp(record.expires, micro=True),
    }
    if record.secret_hash is not None:
        values["secret-hash"] = record.secret_hash.hex()
    if record.revoked is not None:
        values["revoked"] = timestamp(record.revoked, micro=True)
    return Secret(metadata=meta, type=CREDENTIAL_TYPE, data=secret_data(values))


def read_credential(obj: Secret) -> CredentialRecord:
    """ValueError says what is wrong with it."""
    text = obj.secret_text
    created, expires, kind = moment(text("created")), moment(text("expiration")), text("kind")
    _check(obj, obj.metadata.name == secret_name("credential", text("id")), "id is not of this object")
    _check(obj, obj.type == CREDENTIAL_TYPE, f"expected type {CREDENTIAL_TYPE}")
    _check(obj, created is not None and expires is not None, "created and expiration have to be times")
    _check(obj, kind in ("token", "certificate"), "kind has to be token or certificate")
    assert created is not None
    assert expires is not None
    return CredentialRecord(
        id=text("id"),
        kind="token" if kind == "token" else "certificate",
        name=text("name"),
        secret_hash=_digest(obj, "secret-hash") if kind == "token" else None,
        created=created,
        expires=expires,
        revoked=moment(text("revoked")),
    )


def ca_object(ca: SharedCa, *, namespace: str) -> Secret:
    return Secret(metadata=_meta(CA_NAME, namespace, "ca"), type=CA_TYPE, data=ca_data(ca))


def ca_data(ca: SharedCa) -> dict[str, str]:
    values: dict[str, str | bytes] = {
        "cluster": ca.cluster,
        "ca.crt": ca.certificate_pem,
        "ca.key": ca.key_pem,
    }
    if (previous := ca.previous) is not None:
        values |= {
            "previous.crt": previous.certificate_pem,
            "previous.key": previous.key_pem,
            "previous-link.crt": previous.link_pem,
            "previous-until": timestamp(previous.until, micro=True),
        }
    return secret_data(values)


def read_ca(obj: Secret) -> SharedCa:
    """ValueError says what is missing; whether keys and certificates are good finds out who loads them."""
    text = obj.secret_text
    _check(obj, is_cluster(text("cluster")), "cluster has to be a cluster's name")
    _check(obj, bool(text("ca.crt") and text("ca.key")), "ca.crt and ca.key have to be there")
    previous = None
    if text("previous.crt"):
        until = moment(text("previous-until"))
        _check(obj, until is not None, "previous-until has to be a time")
        assert until is not None
        previous = PreviousCa(
            certificate_pem=text("previous.crt"),
            key_pem=text("previous.key"),
            link_pem=text("previous-link.crt"),
            until=until,
        )
    return SharedCa(
        cluster=text("cluster"), certificate_pem=text("ca.crt"), key_pem=text("ca.key"), previous=previous
    )


def kind_of(obj: Secret | ConfigMap) -> str:
    """What the object is to the registry; "" for one of somebody else."""
    return obj.metadata.labels.get(LABEL, "")


_nodes: msgspec.json.Decoder[SharedNode] = msgspec.json.Decoder(SharedNode)


def _meta(name: str, namespace: str, kind: str) -> Meta:
    return Meta(name=name, namespace=namespace, labels={LABEL: kind})


def _digest(obj: Secret, key: str) -> bytes:
    try:
        value = bytes.fromhex(obj.secret_text(key))
    except ValueError:
        value = b""
    _check(obj, len(value) == hashlib.sha256().digest_size, f"{key} has to be a SHA-256 in hexadecimal")
    return value


def _check(obj: Secret, good: bool, problem: str) -> None:
    if not good:
        raise ValueError(f"Secret {obj.metadata.key}: {problem}")
