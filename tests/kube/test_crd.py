"""The CRD in deploy/ and our structs say the same: every field of either is in the other, with one type."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import yaml

from raven.kube import gateways
from raven.kube.conventions import LOAD_BALANCER, PROXY, PUBLIC_IP, TUNNEL

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((ROOT / "deploy/kubernetes/crds/gateways.yaml").read_text())
VERSIONS = {version["name"]: version for version in CRD["spec"]["versions"]}
SCHEMA = VERSIONS["v1beta1"]["schema"]["openAPIV3Schema"]["properties"]

OTHERS = {"nodeSelector"}  # in the schema because OpenYurt has it; nothing for us
V1ALPHA1 = {"activeEndpoint"}
JSON_TYPES = {str: "string", int: "integer", bool: "boolean"}


def compare(schema: dict[str, Any], kind: Any, where: str) -> None:
    """Asserts that `schema` describes what msgspec makes of `kind`."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        assert schema["type"] == "object", where
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        assert fields.keys() - V1ALPHA1 == schema["properties"].keys() - OTHERS, where
        for name, inner in fields.items():
            if name not in V1ALPHA1:
                compare(schema["properties"][name], inner, f"{where}.{name}")
    elif get_origin(kind) is tuple:
        assert schema["type"] == "array", where
        compare(schema["items"], get_args(kind)[0], f"{where}[]")
    elif get_origin(kind) is dict:
        assert schema["type"] == "object", where
        assert schema["additionalProperties"] == {"type": "string"}, where
    else:
        assert schema["type"] == JSON_TYPES[kind], where


def test_the_schema_is_the_structs() -> None:
    compare(SCHEMA["spec"], gateways.GatewaySpec, "spec")
    compare(SCHEMA["status"], gateways.GatewayStatus, "status")


def test_the_older_version_is_as_strict() -> None:
    """Both are stored as one: what it let through would not be readable any more."""
    old = VERSIONS["v1alpha1"]["schema"]["openAPIV3Schema"]["properties"]
    assert old["spec"] == SCHEMA["spec"]
    status = dict(old["status"]["properties"])
    assert status.pop("activeEndpoint") == SCHEMA["status"]["properties"]["activeEndpoints"]["items"]
    assert status == SCHEMA["status"]["properties"]


def test_the_names_are_openyurts() -> None:
    assert CRD["metadata"]["name"] == f"{gateways.GATEWAYS.plural}.{gateways.GROUP}"
    assert CRD["spec"]["scope"] == "Cluster"
    assert CRD["spec"]["names"]["shortNames"] == ["gw"]
    assert VERSIONS["v1beta1"]["storage"]
    assert VERSIONS["v1alpha1"]["served"]
    assert not VERSIONS["v1alpha1"]["storage"]
    spec = SCHEMA["spec"]["properties"]
    assert set(spec["exposeType"]["enum"]) == {"", PUBLIC_IP, LOAD_BALANCER}
    assert set(spec["endpoints"]["items"]["properties"]["type"]["enum"]) == {PROXY, TUNNEL}
    assert SCHEMA["status"]["properties"]["nodes"]["items"]["required"] == [
        "nodeName",
        "privateIP",
        "subnets",
    ]
