"""A Gateway goes through our structs and comes back as OpenYurt spells it."""

from __future__ import annotations

import msgspec

from raven.kube.gateways import GATEWAYS, Gateway, GatewaySpec, GatewayStatus, NodeInfo, from_v1alpha1
from raven.kube.objects import Meta, decode_untrusted

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
    assert decode_untrusted(GATEWAYS.encode(gateway), Gateway) == gateway
    raw = msgspec.json.decode(GATEWAY)
    ours = msgspec.json.decode(GATEWAYS.encode(gateway))
    for unknown in (raw["metadata"], "managedFields"), (raw["spec"], "nodeSelector"):
        unknown[0].pop(unknown[1])
    del raw["spec"]["endpoints"][0]["ofTomorrow"]
    assert ours == raw


def test_a_node_of_the_site_always_has_its_three_fields() -> None:
    site = Gateway(
        metadata=Meta(name="g"),
        status=GatewayStatus(nodes=(NodeInfo(node_name="n", private_ip="", subnets=()),)),
    )
    sent = msgspec.json.decode(GATEWAYS.encode(site))
    assert sent["status"]["nodes"] == [{"nodeName": "n", "privateIP": "", "subnets": []}]


def test_an_empty_spec_is_the_default_one() -> None:
    assert decode_untrusted(b'{"metadata": {"name": "g"}}', Gateway).spec == GatewaySpec()


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
