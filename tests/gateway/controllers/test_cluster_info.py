"""The ConfigMap for joining edges: published, kept, and left alone when it is as it shall be."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from raven.errors import PeerError, StateError
from raven.kube.cluster_info import NAME, NAMESPACE, ClusterInfo, read_untrusted
from raven.kube.objects import Meta
from raven.kube.resources import ConfigMap
from tests.gateway.controllers.scene import Scene
from tests.kube.fake import status as refusal

KEY = f"{NAMESPACE}/{NAME}"
INFO = ClusterInfo("lab", "-----BEGIN CERTIFICATE-----\n", (("c1", "192.0.2.1:10262"), ("c2", "gw.lan:443")))


class Told(Scene):
    """A scene whose gateway tells `told`."""

    def __init__(self) -> None:
        super().__init__()
        self.told: ClusterInfo | None = INFO
        self.info = self._tell

    def _tell(self) -> ClusterInfo:
        if self.told is None:
            raise StateError("the registry is busy")
        return self.told

    def published(self) -> ClusterInfo:
        data = self.api.objects["configmaps", KEY]["data"]
        return read_untrusted(ConfigMap(metadata=Meta(name=NAME), data=data))


async def test_it_is_published_and_follows(autojump_clock: trio.testing.MockClock) -> None:
    scene = Told()
    async with scene.running():
        assert scene.published() == INFO
        scene.told = ClusterInfo("lab", "another CA", INFO.gateways[:1])
        await scene.settle()
        assert scene.published() == scene.told


async def test_it_comes_back_and_what_others_wrote_beside_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Told()
    async with scene.running():
        scene.api.change("configmaps", KEY, {"data": {"cluster": "mallory", "note": "ours"}})
        await scene.settle()
        assert scene.published() == INFO
        assert scene.api.objects["configmaps", KEY]["data"]["note"] == "ours"
        scene.api.remove("configmaps", KEY)
        await scene.settle()
        assert scene.published() == INFO


async def test_nothing_is_sent_while_nothing_changes(autojump_clock: trio.testing.MockClock) -> None:
    scene = Told()
    async with scene.running():
        sent = len(scene.writes())
        scene.told = None  # a registry that cannot be read changes nothing, and stops nothing
        await trio.sleep(600)
        scene.told = INFO
        await trio.sleep(600)
        assert len(scene.writes()) == sent
        assert scene.published() == INFO


async def test_a_right_that_is_missing_is_a_sentence_and_no_hot_loop(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Told()
    scene.api.fault = lambda request: (
        refusal(403, "Forbidden", "no")
        if request.method == "POST" and f"/{NAMESPACE}/" in request.url.path
        else None
    )
    async with scene.running() as cluster:
        await trio.sleep(600)
        assert any("info" in problem and NAME in problem for problem in cluster.problems())
        assert sum(f"POST /api/v1/namespaces/{NAMESPACE}" in line for line in scene.api.requests) < 30
        scene.api.fault = None
        await trio.sleep(120)
        assert scene.published() == INFO
        assert cluster.problems() == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster": ""}, "cluster: missing"),
        ({"cluster": "A b"}, "no cluster's name"),
        ({"ca.crt": "x" * 70000}, "ca.crt: missing, or too long"),
        ({"gateways": "\n"}, "0 lines"),
        ({"gateways": "c1 h:1\n" * 100}, "100 lines"),
        ({"gateways": "h:1\n"}, "is not NAME HOST:PORT"),
        ({"gateways": "C_1 h:1\n"}, "is not NAME HOST:PORT"),
    ],
)
def test_what_cannot_be_used_is_named(changed: dict[str, str], said: str) -> None:
    config = ConfigMap(metadata=Meta(name=NAME), data={**INFO.data(), **changed})
    with pytest.raises(PeerError, match=said) as caught:
        read_untrusted(config)
    assert KEY in str(caught.value)


def test_it_reads_as_it_was_written() -> None:
    assert read_untrusted(ConfigMap(metadata=Meta(name=NAME), data=INFO.data())) == INFO
