"""Requests and their failures, against the fake API server."""

from __future__ import annotations

import httpx
import msgspec
import pytest
import trio
import trio.testing

from raven.kube import client as client_module
from raven.kube.access import Access, Token
from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.gateways import GATEWAYS
from raven.kube.objects import Meta
from raven.kube.resources import CONFIG_MAPS, NODES, SLICES, SLICES_V1BETA1, ConfigMap, Node
from tests.kube.fake import FakeApi, status


def config_map(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=Meta(name=name, namespace="kube-system"), data=data)


async def test_create_get_patch_delete() -> None:
    api = FakeApi()
    client = api.client()
    made = await client.create(CONFIG_MAPS, config_map("c", a="1"))
    assert made.metadata.uid
    api.change("configmaps", "kube-system/c", {"binaryData": {"x": "eA=="}, "data": {"theirs": "2"}})
    read = await client.get(CONFIG_MAPS, "c", namespace="kube-system")
    wrote = await client.patch(CONFIG_MAPS, read, msgspec.structs.replace(read, data={**read.data, "a": "3"}))
    assert wrote.data == {"a": "3", "theirs": "2"}
    assert api.objects["configmaps", "kube-system/c"]["binaryData"] == {
        "x": "eA=="
    }  # not ours, so still there
    await client.delete(CONFIG_MAPS, wrote)
    await client.delete(CONFIG_MAPS, wrote)
    with pytest.raises(KubeError) as caught:
        await client.get(CONFIG_MAPS, "c", namespace="kube-system")
    assert caught.value.reason == "not-found"


async def test_the_slower_of_two_writers_is_told() -> None:
    api = FakeApi()
    client = api.client()
    made = await client.create(CONFIG_MAPS, config_map("c"))
    await client.patch(CONFIG_MAPS, made, msgspec.structs.replace(made, data={"a": "1"}))
    with pytest.raises(KubeError) as caught:
        await client.patch(CONFIG_MAPS, made, msgspec.structs.replace(made, data={"a": "2"}))
    assert caught.value.reason == "conflict"
    with pytest.raises(KubeError) as caught:
        await client.create(CONFIG_MAPS, config_map("c"))
    assert caught.value.reason == "exists"


async def test_a_patch_of_nothing_sends_nothing() -> None:
    api = FakeApi()
    client = api.client()
    made = await client.create(CONFIG_MAPS, config_map("c"))
    sent = len(api.requests)
    assert await client.patch(CONFIG_MAPS, made, made) == made
    assert len(api.requests) == sent


async def test_lists_come_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE", 3)
    api = FakeApi()
    for number in range(8):
        api.add(NODES, Node(metadata=Meta(name=f"n{number}")))
    page = await api.client().list(NODES)
    assert [node.metadata.name for node in page.items] == [f"n{number}" for number in range(8)]
    assert len(api.requests) == 3


async def test_an_object_that_cannot_be_read_is_told_and_left_out() -> None:
    api = FakeApi()
    api.add(GATEWAYS, {"metadata": {"name": "bad"}, "spec": {"endpoints": [{"type": "tunnel"}]}})
    api.add(GATEWAYS, {"metadata": {"name": "good"}})
    page = await api.client().list(GATEWAYS)
    assert [one.metadata.name for one in page.items] == ["good"]
    (sentence,) = page.unreadable.values()
    assert "Gateway bad" in sentence
    assert "nodeName" in sentence


@pytest.mark.parametrize(
    ("code", "why", "reason"),
    [
        (400, "BadRequest", "invalid"),
        (403, "Forbidden", "forbidden"),
        (404, "NotFound", "not-found"),
        (409, "Conflict", "conflict"),
        (409, "AlreadyExists", "exists"),
        (410, "Expired", "gone"),
        (422, "Invalid", "invalid"),
    ],
)
async def test_refusals_have_a_reason_and_are_not_repeated(code: int, why: str, reason: str) -> None:
    api = FakeApi()
    api.fault = lambda request: status(code, why, "because")
    with pytest.raises(KubeError, match="because") as caught:
        await api.client().get(NODES, "n1")
    assert caught.value.reason == reason
    assert len(api.requests) == 1


async def test_throttled_waits_as_long_as_it_is_told(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    answers = [status(429, "TooManyRequests", "later", **{"retry-after": "7"})]
    api.fault = lambda request: answers.pop() if answers else None
    began = trio.current_time()
    await api.client().create(CONFIG_MAPS, config_map("c"))
    assert trio.current_time() - began == pytest.approx(7)


async def test_reads_are_tried_again_and_writes_are_not(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("cut", request=request)

    api.fault = broken
    for attempts, call in (
        (client_module.TRIES, lambda: api.client().get(NODES, "n1")),
        (1, lambda: api.client().create(CONFIG_MAPS, config_map("c"))),
    ):
        api.requests.clear()
        with pytest.raises(KubeError) as caught:
            await call()
        assert caught.value.reason == "unreachable"
        assert isinstance(caught.value.__cause__, httpx.ReadError)
        assert len(api.requests) == attempts


async def test_a_token_is_read_again_when_it_is_refused() -> None:
    api = FakeApi()
    api.add(NODES, Node(metadata=Meta(name="n1")))
    tokens = iter(["old", "new"])

    def judged(request: httpx.Request) -> httpx.Response | None:
        good = request.headers["authorization"] == "Bearer new"
        return None if good else status(401, "Unauthorized", "Unauthorized")

    api.fault = judged
    access = Access(server="http://fake", namespace="x", token=Token(lambda: next(tokens)))
    client = Client(access, transport=api, jitter=lambda: 0.0)
    assert (await client.get(NODES, "n1")).metadata.name == "n1"
    assert "old" not in repr(access)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"items": 5, "metadata": {}}'])
async def test_what_is_no_answer(body: bytes) -> None:
    api = FakeApi()
    api.fault = lambda request: httpx.Response(200, content=body)
    with pytest.raises(KubeError) as caught:
        await api.client().list(NODES)
    assert caught.value.reason == "unreadable"


async def test_the_version_that_is_served_is_chosen() -> None:
    api = FakeApi()
    assert await api.client().choose(SLICES, SLICES_V1BETA1) is SLICES
    del api.served["/apis/discovery.k8s.io/v1"]
    assert await api.client().choose(SLICES, SLICES_V1BETA1) is SLICES_V1BETA1
    del api.served["/apis/discovery.k8s.io/v1beta1"]
    assert await api.client().choose(SLICES, SLICES_V1BETA1) is None
