"""How every object is read, patched, addressed and timed. What we do not know stays in the cluster."""

from __future__ import annotations

import msgspec
import pytest

from raven.kube.gateways import Gateway, GatewayStatus, NodeInfo
from raven.kube.objects import Meta, decode_untrusted, moment, patch_between, timestamp
from raven.kube.resources import LEASES, NODES, Node


def test_a_patch_has_what_differs_and_the_version_it_is_from() -> None:
    gateway = Gateway(
        metadata=Meta(name="g", resource_version="77"),
        status=GatewayStatus(nodes=(NodeInfo(node_name="n", private_ip="", subnets=()),)),
    )
    status = GatewayStatus(observed_generation=3)
    new = msgspec.structs.replace(gateway, status=status)
    assert patch_between(gateway, new) == {
        "metadata": {"resourceVersion": "77"},
        "status": {"nodes": None, "observedGeneration": 3},
    }
    assert patch_between(gateway, gateway) == {}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"metadata": 5}', b"{}", b'{"metadata": {"name": {}}}'])
def test_what_is_no_object_raises_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_untrusted(text, Node)


def test_paths() -> None:
    assert NODES.path(name="n1", subresource="status") == "/api/v1/nodes/n1/status"
    assert LEASES.path(namespace="a", name="b") == ("/apis/coordination.k8s.io/v1/namespaces/a/leases/b")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "1970-01-01T00:00:00Z"), (1.5e9, "2017-07-14T02:40:00Z")]
)
def test_times(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text
    assert moment(text) == seconds
    assert moment("yesterday") is None
    assert moment(timestamp(seconds + 0.25, micro=True)) == seconds + 0.25
