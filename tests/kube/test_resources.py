"""Objects of Kubernetes as others write them, read into our structs."""

from __future__ import annotations

from typing import Any

import pytest

from raven.kube.objects import Meta, decode_untrusted
from raven.kube.resources import EndpointSlice, Node, Secret, secret_data


@pytest.mark.parametrize(
    ("text", "kind", "check"),
    [
        (b'{"metadata": {"name": "n"}, "spec": {"podCIDRs": null}}', Node, lambda n: n.spec.pod_cidrs == ()),
        (b'{"metadata": {"name": "n", "labels": null}}', Node, lambda n: n.metadata.labels == {}),
        (
            b'{"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}',
            Node,
            lambda n: n.is_ready(),
        ),
        (
            b'{"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"],'
            b' "topology": {"kubernetes.io/hostname": "n1"}}]}',
            EndpointSlice,
            lambda s: s.endpoints[0].node == "n1",
        ),
        (
            b'{"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"],'
            b' "nodeName": "n2", "zone": "z"}]}',
            EndpointSlice,
            lambda s: s.endpoints[0].node == "n2",
        ),
    ],
)
def test_what_others_write(text: bytes, kind: Any, check: Any) -> None:
    assert check(decode_untrusted(text, kind))


def test_a_secret_hides_its_values() -> None:
    secret = Secret(metadata=Meta(name="s"), data=secret_data({"key": "hunter2"}))
    assert "hunter2" not in repr(secret)
    assert secret.data["key"] not in repr(secret)
    assert secret.secret_text("key") == "hunter2"
    assert secret.secret_bytes("other") is None


def test_a_slice_without_endpoints_is_read() -> None:
    """So the API server answers for a slice that was made empty; unread, it would stay behind for good."""
    text = b'{"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": null, "ports": []}'
    assert decode_untrusted(text, EndpointSlice).endpoints == ()
