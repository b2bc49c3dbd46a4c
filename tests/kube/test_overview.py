"""What a cluster's objects say of it: who leads, how fresh that is, and a sentence for what is wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raven.kube.conventions import GATEWAY_LABEL
from raven.kube.errors import KubeError
from raven.kube.gateways import Gateway
from raven.kube.objects import Meta
from raven.kube.overview import Facts, Overview, overview
from raven.kube.resources import PODS, Lease, Pod, PodSpec
from raven.kube.survey import read
from tests.kube.fake import FakeApi, status
from tests.kube.sites import CONNECTED, INFO, LOST, NOW, WELL, condition, lease, node, pod, served, site


def seen(**changed: Any) -> Overview:
    return overview(facts(**changed), now=NOW)


def facts(**changed: Any) -> Facts:
    kept = {name: getattr(WELL, name) for name in WELL.__slots__}
    return Facts(**{**kept, **changed})


def test_a_cluster_that_is_well() -> None:
    found = seen()
    assert (found.cluster, found.problems, found.notes) == ("lab", [], [])
    first, second = found.gateways
    assert (first.name, first.leads, first.leads_for_s, first.evidence_age_s) == ("c1", True, 600, 1)
    assert (first.ready, first.ready_for_s, first.address) == (True, 120, "gw-1.lan:443")
    assert (second.name, second.leads, second.leads_for_s, second.ready) == ("c2", False, None, True)
    (shop,) = found.sites
    assert (shop.lane.state, shop.lane.evidence_age_s, shop.for_s) == ("up", 1, 7200)
    assert [(one.node, one.type, one.address) for one in shop.active] == [("shop-1", "tunnel", "192.0.2.7")]
    (member,) = shop.nodes
    assert (member.name, member.ready, member.ready_for_s) == ("shop-1", True, 3600)
    assert (member.subnets, member.active) == (["10.1.0.0/24"], ["tunnel"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lease": None}, "no gateway leads"),
        ({"lease": lease("")}, "no gateway leads"),
        ({"lease": lease("c1", renewed=3600)}, "gateway c1 led until 60 min ago and nobody has since"),
        ({"pods": [pod("c1"), pod("c2", ready=False)]}, "the pod of gateway c2 is not ready"),
        ({"config": None}, "switches everything off: neither enable-l7-proxy nor enable-l3-tunnel"),
        ({"nodes": [node("x", "gone")]}, f"node x is labelled {GATEWAY_LABEL}=gone, and there is no such"),
        ({"info": msgspec.structs.replace(INFO, data={})}, "raven-cluster-info: cluster, ca.crt, gateways"),
    ],
)
def test_a_sentence_for_what_is_wrong(changed: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in seen(**changed).problems)


BAD = condition("Accepted", "False", since=60, message="endpoints name node ghost")


@pytest.mark.parametrize(
    ("one", "held", "state", "age", "problem"),
    [
        (site("shop", LOST), lease("c1"), "down", 1, "no tunnel to node shop-1"),
        (site("shop", BAD, CONNECTED), lease("c1"), "up", 1, "endpoints name node ghost"),
        # Nobody looks any more: what was up is not called so on old evidence, and what was down stays.
        (site("shop", CONNECTED), lease("c1", renewed=3600), "stale", 3600, ""),
        (site("shop", CONNECTED), None, "stale", None, ""),
        (site("shop", LOST), lease("c1", renewed=3600), "down", 3600, "no tunnel"),
        (site("shop"), lease("c1"), "stale", None, ""),
        (site("shop", condition("Connected", "Unknown", since=9)), lease("c1"), "off", 1, ""),
        (site("shop", CONNECTED, generation=3, judged=2), lease("c1"), "up", 1, "an earlier specification"),
    ],
)
def test_a_site_is_as_good_as_its_evidence(
    one: Gateway, held: Lease | None, state: str, age: float | None, problem: str
) -> None:
    (found,) = seen(gateways=[one], lease=held).sites
    assert (found.lane.state, found.lane.evidence_age_s) == (state, age)
    assert found.lane.state == "up" or found.lane.detail
    assert any(problem in said for said in found.problems) if problem else found.problems == []


def test_a_node_that_is_gone_is_not_ready_and_not_unready() -> None:
    (found,) = seen(nodes=[]).sites
    assert (found.nodes[0].ready, found.nodes[0].ready_for_s) == (None, None)


def test_a_leader_outside_of_pods_is_a_gateway() -> None:
    found = seen(pods=[], info=None)
    assert [(one.name, one.leads, one.ready) for one in found.gateways] == [("c1", True, None)]
    assert found.cluster == ""


async def test_it_is_read_as_it_is_decided() -> None:
    api = served(FakeApi())
    api.add(PODS, Pod(metadata=Meta(name="other", namespace="default"), spec=PodSpec(node_name="c9")))
    found = overview(await read(api.client()), now=NOW)
    assert msgspec.structs.replace(found, server=WELL.server) == seen()
    assert all(line.startswith("GET ") for line in api.requests)


async def test_what_may_not_be_read_is_a_note() -> None:
    api = served(FakeApi())
    api.fault = lambda request: (
        status(403, "Forbidden", "no") if request.url.path.endswith(("/pods", "/configmaps")) else None
    )
    found = overview(await read(api.client()), now=NOW)
    assert len(found.notes) == 3
    assert found.problems == []  # what may not be read is not said to be off
    assert [(one.name, one.leads) for one in found.gateways] == [("c1", True)]


async def test_without_the_resource_it_says_how_to_get_it() -> None:
    api = FakeApi()
    del api.served["/apis/raven.openyurt.io/v1beta1"]
    with pytest.raises(KubeError, match="kubectl apply -k deploy/kubernetes"):
        await read(api.client())
