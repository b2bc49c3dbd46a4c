"""What goes wrong under the controllers: an API server that fails, rights taken away, others who write."""

from __future__ import annotations

import httpx
import trio
import trio.testing

from raven.kube.conventions import INTERNAL_SERVICE
from raven.kube.objects import Meta
from raven.kube.resources import BLOCK_AFFINITIES, SLICES, EndpointSlice
from tests.gateway.controllers.scene import CLOUD, EDGE, Scene, gateway, node, proxy, tunnel
from tests.kube.fake import status as refusal


async def test_slices_go_even_when_the_api_server_fails_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lb = gateway("lb", proxy("l1"), expose="LoadBalancer", proxies=1)
    scene = Scene(*CLOUD, node("l1", "lb", address="192.0.2.3"), lb)
    async with scene.running() as cluster:
        assert len(scene.api.all("endpointslices")) == 2
        failing = ["endpointslices", "endpointslices", "services", "services"]

        def fail(request: httpx.Request) -> httpx.Response | None:
            if request.method == "DELETE" and failing and failing[0] in request.url.path:
                return refusal(500, "InternalError", f"etcd, before {failing.pop(0)}")
            return None

        scene.api.fault = fail
        scene.api.change("configmaps", "kube-system/raven-cfg", {"data": {"enable-l7-proxy": "false"}})
        await trio.sleep(120)
        assert failing == []
        assert scene.api.all("endpointslices") == []
        assert scene.api.all("services") == []
        assert cluster.problems() == []


async def test_what_somebody_undoes_is_done_again(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*CLOUD)
    async with scene.running():
        scene.api.remove("services", f"kube-system/{INTERNAL_SERVICE}")
        scene.api.change("endpointslices", f"kube-system/{INTERNAL_SERVICE}", {"endpoints": []})
        scene.api.remove("configmaps", "kube-system/edge-tunnel-nodes")
        scene.api.change("gateways", "cloud", {"status": None})
        await scene.settle()
        assert ("services", f"kube-system/{INTERNAL_SERVICE}") in scene.api.objects
        assert scene.addresses() == ["192.0.2.1", "192.0.2.2"]
        assert ("configmaps", "kube-system/edge-tunnel-nodes") in scene.api.objects
        assert len(scene.active("cloud")) == 2


async def test_two_leaders_do_no_harm(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE, *CLOUD)
    first, second = scene.cluster("first"), scene.cluster("second")
    async with trio.open_nursery() as nursery:
        for one in (first, second):
            one.elector.leading = True
            nursery.start_soon(one.run)
        for one in (first, second):
            await one.ready.wait()
            nursery.start_soon(one._lead)
        for number in range(10):
            ready = {"status": {"conditions": [{"type": "Ready", "status": str(number % 2 == 1)}]}}
            scene.api.change("nodes", "e1", ready)
            await scene.settle(0.3)
        await scene.settle(30)
        assert scene.active("shop") == [("e2", "tunnel")]
        assert len(scene.active("cloud")) == 2
        sent = len(scene.writes())
        await scene.settle(600)
        assert len(scene.writes()) == sent  # they agree
        nursery.cancel_scope.cancel()


async def test_ten_minutes_without_an_api_server(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    async with scene.running() as cluster:

        def away(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused", request=request)

        scene.api.fault = away
        scene.api.cut()
        await trio.sleep(600)
        assert cluster.view is not None
        assert len(cluster.view.gateways.objects) == 1
        assert any("out of reach" in problem for problem in cluster.problems())
        assert not cluster.elector.leading
        scene.api.fault = None
        scene.api.change("nodes", "e1", {"status": {"conditions": []}})
        await trio.sleep(60)
        assert scene.active("shop") == [("e2", "tunnel")]
        assert cluster.problems() == []


async def test_a_verb_taken_away_is_named_and_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    async with scene.running() as cluster:

        def forbid(request: httpx.Request) -> httpx.Response | None:
            wrong = request.method == "PATCH" and "gateways" in request.url.path
            return refusal(403, "Forbidden", 'cannot patch resource "gateways/status"') if wrong else None

        scene.api.fault = forbid
        scene.api.change("nodes", "e1", {"status": {"conditions": []}})
        await scene.settle()
        assert any("gateways/status shop: not allowed" in problem for problem in cluster.problems())
        before = len(scene.writes())
        await trio.sleep(600)
        assert len(scene.writes()) - before < 30
        scene.api.fault = None
        await trio.sleep(120)
        assert scene.active("shop") == [("e2", "tunnel")]
        assert cluster.problems() == []


async def test_that_nobody_can_be_elected_is_told(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)

    def forbid(request: httpx.Request) -> httpx.Response | None:
        wrong = "/leases" in request.url.path
        return refusal(403, "Forbidden", 'cannot get resource "leases"') if wrong else None

    scene.api.fault = forbid
    async with scene.running() as cluster:
        assert scene.active("shop") == []
        (problem,) = cluster.problems()
        assert "leases raven-gateway: not allowed" in problem
        scene.api.fault = None
        await scene.settle()
        assert scene.active("shop") == [("e1", "tunnel")]
        assert cluster.problems() == []


async def test_a_slice_of_somebody_elses_is_named_and_left(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*CLOUD)
    key = f"kube-system/{INTERNAL_SERVICE}"
    scene.api.add(
        SLICES,
        EndpointSlice(metadata=Meta(name=INTERNAL_SERVICE, namespace="kube-system"), address_type="IPv4"),
    )
    async with scene.running() as cluster:
        await trio.sleep(600)
        assert len(scene.writes()) < 40
        assert any(f"{INTERNAL_SERVICE}" in one and "not ours" in one for one in cluster.problems())
        assert not scene.api.objects["endpointslices", key].get("endpoints")
        # Once it has the label, it is seen, and kept like any other.
        label = {"endpointslice.kubernetes.io/managed-by": "raven.openyurt.io"}
        scene.api.change(
            "endpointslices",
            key,
            {"metadata": {"labels": {**label, "kubernetes.io/service-name": INTERNAL_SERVICE}}},
        )
        await scene.settle()
        assert scene.addresses() == ["192.0.2.1", "192.0.2.2"]
        assert cluster.problems() == []


async def test_a_watch_taken_away_while_others_write_is_no_hot_loop(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene(*EDGE)
    async with scene.running() as cluster:

        def forbid(request: httpx.Request) -> httpx.Response | None:
            wrong = request.method == "GET" and request.url.path.endswith("/gateways")
            return refusal(403, "Forbidden", "cannot watch gateways") if wrong else None

        scene.api.fault = forbid
        scene.api.cut()
        scene.api.change("gateways", "shop", {"metadata": {"labels": {"a": "b"}}})
        scene.api.change("nodes", "e1", {"status": {"conditions": []}})
        before = len(scene.writes())
        await trio.sleep(600)
        assert len(scene.writes()) - before < 30
        assert any("site shop" in problem for problem in cluster.problems())
        scene.api.fault = None
        await trio.sleep(180)
        assert scene.active("shop") == [("e2", "tunnel")]
        assert cluster.problems() == []


async def test_calico_that_is_installed_later_is_followed(autojump_clock: trio.testing.MockClock) -> None:
    calico = node("e1", "shop", annotations={"projectcalico.org/IPv4Address": "10.0.0.1/24"})
    scene = Scene(calico, gateway("shop", tunnel("e1"), tunnels=1))
    blocks = scene.api.served.pop("/apis/crd.projectcalico.org/v1")
    async with scene.running() as cluster:
        assert scene.status("shop")["nodes"][0]["subnets"] == []
        first = cluster.view
        scene.api.served["/apis/crd.projectcalico.org/v1"] = blocks
        spec = {"state": "confirmed", "node": "e1", "cidr": "10.244.1.0/26"}
        scene.api.add(BLOCK_AFFINITIES, {"metadata": {"name": "b"}, "spec": spec})
        assert first is not None
        news = first.news
        await trio.sleep(90)
        assert scene.status("shop")["nodes"][0]["subnets"] == ["10.244.1.0/26"]
        assert news.is_set()  # who followed the first one looks at the next
        assert cluster.view is not first
        assert cluster.elector.leading


async def test_the_crd_is_replaced_by_a_newer_one_at_run_time(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(node("e1", "shop"))
    new = scene.api.served.pop("/apis/raven.openyurt.io/v1beta1")
    scene.api.served["/apis/raven.openyurt.io/v1alpha1"] = ["gateways"]
    scene.add(gateway("shop", tunnel("e1"), tunnels=1))
    async with scene.running() as cluster:
        assert any("v1alpha1 only" in problem for problem in cluster.problems())
        scene.api.served["/apis/raven.openyurt.io/v1beta1"] = new
        await trio.sleep(90)
        assert cluster.problems() == []
        assert scene.active("shop") == [("e1", "tunnel")]


async def test_an_upgrade_that_takes_a_version_away(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*CLOUD)
    new = scene.api.served.pop("/apis/discovery.k8s.io/v1")
    async with scene.running() as cluster:
        assert scene.addresses() == ["192.0.2.1", "192.0.2.2"]
        scene.api.served["/apis/discovery.k8s.io/v1"] = new
        del scene.api.served["/apis/discovery.k8s.io/v1beta1"]
        scene.api.cut()
        await trio.sleep(90)
        (slice,) = scene.api.all("endpointslices")
        assert [one["nodeName"] for one in slice["endpoints"]] == ["c1", "c2"]
        assert cluster.problems() == []


async def test_a_view_that_cannot_list_leaves_the_one_before(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(*EDGE)
    blocks = scene.api.served.pop("/apis/crd.projectcalico.org/v1")
    async with scene.running() as cluster:

        def forbid(request: httpx.Request) -> httpx.Response | None:
            wrong = request.url.path.endswith("/blockaffinities")
            return refusal(403, "Forbidden", "cannot list blockaffinities") if wrong else None

        first, scene.api.fault = cluster.view, forbid
        scene.api.served["/apis/crd.projectcalico.org/v1"] = blocks
        await trio.sleep(120)
        assert cluster.view is first
        assert any("list blockaffinities: not allowed" in problem for problem in cluster.problems())
        scene.api.change("nodes", "e1", {"status": {"conditions": []}})
        await scene.settle()
        assert scene.active("shop") == [("e2", "tunnel")]
        del scene.api.served["/apis/crd.projectcalico.org/v1"]
        await trio.sleep(90)
        assert cluster.view is not first
        assert cluster.problems() == []
