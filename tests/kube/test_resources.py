"""Objects go through our structs and come back; what we do not know stays in the cluster."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raven.kube import resources
from raven.kube.resources import (
    EndpointSlice,
    Gateway,
    GatewaySpec,
    GatewayStatus,
    Meta,
    Node,
    NodeInfo,
    Secret,
    decode_untrusted,
    from_v1alpha1,
    patch_between,
)

GATEWAY = b"""{"apiVersion": "raven.openyurt.io/v1beta1", "kind": "Gateway",
 "metadata": {"name": "gw-shop", "generation": 3, "resourceVersion": "77",
   "managedFields": [{"manager": "x"}]},
 "spec": {"exposeType": "PublicIP", "nodeSelector": {"matchLabels": {"a": "b"}}, "proxyConfig":
   {"Replicas": 1, "proxyHTTPPort": "10255,9445", "proxyHTTPSPort": "10250,9100"},
   "tunnelConfig": {"Replicas": 1},
   "endpoints": [{"nodeName": "n1", "type": "tunnel", "port": 4500, "underNAT": true, "natType": "Full",
     "publicIP": "192.0.2.1", "publicPort": 4501, "config": {"a": "b"}, "ofTomorrow": 1}]},
 "status": {"nodes": [{"nodeName": "n1", "privateIP": "10.0.0.1", "subnets": ["10.1.0.0/24"]}]}}"""


def test_a_gateway_reads_as_openyurt_writes_it() -> None:
    gateway = decode_untrusted(GATEWAY, Gateway)
    (endpoint,) = gateway.spec.endpoints
    assert (endpoint.node_name, endpoint.under_nat, endpoint.nat_type) == ("n1", True, "Full")
    assert (endpoint.public_ip, endpoint.public_port, endpoint.config) == ("192.0.2.1", 4501, {"a": "b"})
    assert gateway.spec.proxy_config.replicas == gateway.spec.tunnel_config.replicas == 1
    assert gateway.spec.proxy_config.proxy_https_port == "10250,9100"
    assert gateway.status.nodes == (
        NodeInfo(node_name="n1", private_ip="10.0.0.1", subnets=("10.1.0.0/24",)),
    )


def test_our_spelling_of_a_gateway_is_the_one_we_read() -> None:
    gateway = decode_untrusted(GATEWAY, Gateway)
    assert decode_untrusted(resources.GATEWAYS.encode(gateway), Gateway) == gateway
    raw = msgspec.json.decode(GATEWAY)
    ours = msgspec.json.decode(resources.GATEWAYS.encode(gateway))
    for unknown in (raw["metadata"], "managedFields"), (raw["spec"], "nodeSelector"):
        unknown[0].pop(unknown[1])
    del raw["spec"]["endpoints"][0]["ofTomorrow"]
    assert ours == raw


def test_a_patch_has_what_differs_and_the_version_it_is_from() -> None:
    gateway = decode_untrusted(GATEWAY, Gateway)
    status = GatewayStatus(observed_generation=3)
    new = msgspec.structs.replace(gateway, status=status)
    assert patch_between(gateway, new) == {
        "metadata": {"resourceVersion": "77"},
        "status": {"nodes": None, "observedGeneration": 3},
    }
    assert patch_between(gateway, gateway) == {}


def test_a_node_of_the_site_always_has_its_three_fields() -> None:
    site = Gateway(
        metadata=Meta(name="g"),
        status=GatewayStatus(nodes=(NodeInfo(node_name="n", private_ip="", subnets=()),)),
    )
    sent = msgspec.json.decode(resources.GATEWAYS.encode(site))
    assert sent["status"]["nodes"] == [{"nodeName": "n", "privateIP": "", "subnets": []}]


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


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"metadata": 5}', b"{}", b'{"metadata": {"name": {}}}'])
def test_what_is_no_object_raises_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_untrusted(text, Node)


def test_v1alpha1_says_the_same_in_other_words() -> None:
    old = decode_untrusted(
        b'{"metadata": {"name": "g"}, "spec": {"exposeType": "LoadBalancer",'
        b' "endpoints": [{"nodeName": "n1"}]},'
        b' "status": {"activeEndpoint": {"nodeName": "n1", "publicIP": "192.0.2.1"}}}',
        Gateway,
    )
    new = from_v1alpha1(old)
    assert new.spec.tunnel_config.replicas == 1
    assert [(one.node_name, one.type) for one in new.spec.endpoints] == [("n1", "tunnel")]
    assert [one.public_ip for one in new.status.active_endpoints] == ["192.0.2.1"]


def test_a_secret_hides_its_values() -> None:
    secret = Secret(metadata=Meta(name="s"), data=resources.secret_data({"key": "hunter2"}))
    assert "hunter2" not in repr(secret)
    assert secret.data["key"] not in repr(secret)
    assert secret.secret_text("key") == "hunter2"
    assert secret.secret_bytes("other") is None


def test_paths() -> None:
    assert resources.NODES.path(name="n1", subresource="status") == "/api/v1/nodes/n1/status"
    assert resources.LEASES.path(namespace="a", name="b") == (
        "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "1970-01-01T00:00:00Z"), (1.5e9, "2017-07-14T02:40:00Z")]
)
def test_times(seconds: float, text: str) -> None:
    assert resources.timestamp(seconds) == text
    assert resources.moment(text) == seconds
    assert resources.moment("yesterday") is None
    assert resources.moment(resources.timestamp(seconds + 0.25, micro=True)) == seconds + 0.25


def test_an_empty_spec_is_the_default_one() -> None:
    assert decode_untrusted(b'{"metadata": {"name": "g"}}', Gateway).spec == GatewaySpec()


def test_a_slice_without_endpoints_is_read() -> None:
    """So the API server answers for a slice that was made empty; unread, it would stay behind for good."""
    text = b'{"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": null, "ports": []}'
    assert resources.decode_untrusted(text, resources.EndpointSlice).endpoints == ()
