"""Two gateways' copies of one registry, kept by its watches, in one process with the fake API server."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import trio

from raven import log
from raven.errors import RefusedError, StateError
from raven.kube.resources import CONFIG_MAPS, SECRETS
from raven.pki.token import hash_secret
from raven.registry.interface import CertificateRecord, CredentialRecord
from raven.registry.kubernetes import KubernetesRegistry, version_of
from raven.registry.kubernetes_follow import Follow
from raven.registry.kubernetes_node import SharedNode
from raven.registry.kubernetes_objects import ca_object, node_object
from raven.registry.kubernetes_store import Store
from raven.registry.shared_ca import SharedCa
from raven.registry.sqlite import SqliteRegistry
from tests.kube.fake import FakeApi, status
from tests.registry.records import KEY, NOW, SECRET, WG, enrol, issuing, shared, token

T = TypeVar("T")
TOKEN = token()


@dataclass
class Copy:
    """One gateway's copy while it follows."""

    registry: KubernetesRegistry
    follow: Follow
    cas: list[SharedCa] = field(default_factory=list)

    async def enrol(self, node: str, serial: str, *, token_id: str = "tok") -> CertificateRecord:
        return await trio.to_thread.run_sync(
            partial(
                self.registry.enrol,
                token_id=token_id,
                secret=SECRET,
                node=node,
                key_hash=KEY,
                now=NOW,
                issue=issuing(serial),
            )
        )

    async def hello(self, node: str, software: str = "1") -> None:
        await trio.to_thread.run_sync(
            partial(
                self.registry.record_hello,
                node,
                public_key=WG,
                pod_cidrs=["10.1.0.0/24"],
                software=software,
                now=NOW,
                address="192.168.1.7",
            )
        )


@pytest.fixture
def api() -> FakeApi:
    api = FakeApi()
    api.add(CONFIG_MAPS, {"metadata": {"name": "raven-gateway", "namespace": "raven-system"}})
    api.add(SECRETS, ca_object(shared(), namespace="raven-system"))
    return api


@asynccontextmanager
async def following(
    api: FakeApi, path: Path, *, imported: Callable[[], None] | None = None
) -> AsyncIterator[Copy]:
    cas: list[SharedCa] = []
    follow = Follow(
        Store(api.client(), "raven-system", jitter=lambda: 0.5),
        log=log.get("test"),
        taken=cas.append,
        imported=imported,
    )
    registry = KubernetesRegistry(path, now=NOW, call=follow.call)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow.run, registry)
            yield Copy(registry, follow, cas)
            nursery.cancel_scope.cancel()
    finally:
        registry.close()


@asynccontextmanager
async def two(api: FakeApi, directory: Path) -> AsyncIterator[tuple[Copy, Copy]]:
    async with following(api, directory / "1") as one, following(api, directory / "2") as other:
        yield one, other


async def until(good: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(10):
        while not good():  # noqa: ASYNC110 -- threads and watches do it
            await trio.sleep(0.01)
        return
    raise AssertionError(f"still waiting for {what}")


async def test_what_one_decides_the_other_knows(api: FakeApi, tmp_path: Path) -> None:
    async with two(api, tmp_path) as (one, other):
        await trio.to_thread.run_sync(one.registry.add_token, TOKEN)
        certificate = await one.enrol("shop-1", "01")
        one.registry.check_certificate(node="shop-1", serial="01")  # at once, before any watch
        await until(lambda: other.registry.node("shop-1") is not None, "the node")
        other.registry.check_certificate(node="shop-1", serial="01")
        assert other.registry.certificates("shop-1") == [certificate]
        assert other.registry.entitled(now=NOW) == {"shop-1"}
        before = one.registry.revision()
        assert await trio.to_thread.run_sync(partial(other.registry.remove_node, "shop-1", now=NOW))
        assert other.registry.node("shop-1") is None
        await until(lambda: one.registry.revision() != before, "the removal")
        with pytest.raises(RefusedError, match="is not registered here"):
            one.registry.check_certificate(node="shop-1", serial="01", connected=True)
        assert [line.event for line in one.registry.audit()] == ["join"]


async def test_a_hello_is_written_once_by_whoever_hears_it(api: FakeApi, tmp_path: Path) -> None:
    async with two(api, tmp_path) as (one, other):
        await trio.to_thread.run_sync(one.registry.add_token, TOKEN)
        await one.enrol("shop-1", "01")
        await one.hello("shop-1")
        await until(lambda: _software(other) == "1", "the hello")
        record = other.registry.node("shop-1")
        assert record is not None
        assert (record.public_key, record.address, record.last_seen) == (WG, "192.168.1.7", None)
        before = api.version
        for _ in range(5):
            for copy in (one, other):
                await copy.hello("shop-1")
                copy.registry.record_use(node="shop-1", serial="01", now=NOW)
        await until(lambda: not one.registry.noted() and not other.registry.noted(), "all to be compared")
        assert api.version == before
        await other.hello("shop-1", "2")
        await until(lambda: _software(one) == "2", "the next hello")


def _software(copy: Copy) -> str:
    record = copy.registry.node("shop-1")
    return "" if record is None else record.software


async def test_pods_that_are_allowed_and_credentials_reach_all(api: FakeApi, tmp_path: Path) -> None:
    async with two(api, tmp_path) as (one, other):
        await trio.to_thread.run_sync(one.registry.add_token, TOKEN)
        await one.enrol("shop-1", "01")
        assert await trio.to_thread.run_sync(one.registry.allow_pods, "shop-1", ["10.9.0.0/16"])
        assert not await trio.to_thread.run_sync(one.registry.allow_pods, "shop-2", [])

        def allowed() -> bool:
            record = other.registry.node("shop-1")
            return record is not None and record.pod_allow == ("10.9.0.0/16",)

        await until(allowed, "the range")
        record = CredentialRecord(
            id="x", kind="token", name="ci", secret_hash=hash_secret(SECRET), created=NOW, expires=NOW + 9
        )
        await trio.to_thread.run_sync(one.registry.add_credential, record)
        await until(lambda: other.registry.credential("x") == record, "the credential")
        before = other.registry.revision()
        assert await trio.to_thread.run_sync(partial(one.registry.revoke_credential, "x", now=NOW + 1))
        await until(lambda: other.registry.revision() != before, "the revocation")
        known = other.registry.credential("x")
        assert known is not None
        assert known.revoked == NOW + 1


async def test_the_api_server_is_away(api: FakeApi, tmp_path: Path) -> None:
    async with two(api, tmp_path) as (one, other):
        await trio.to_thread.run_sync(one.registry.add_token, TOKEN)
        await one.enrol("shop-1", "01")
        await until(lambda: other.registry.node("shop-1") is not None, "the node")
        api.fault = lambda request: status(503, "ServiceUnavailable", "away")
        api.cut()
        await until(lambda: bool(other.follow.problems()), "a problem")
        assert "joins, renewals and commands wait" in other.follow.problems()[0]
        with pytest.raises(RefusedError, match="cannot be reached from this gateway now"):
            await other.enrol("shop-2", "02")
        await other.hello("shop-1", "9")  # waits, and is in the copy
        assert _software(other) == "9"
        api.fault = lambda request: status(403, "Forbidden", "no such verb")
        with pytest.raises(StateError, match="does the role of this ServiceAccount have the verb"):
            await other.enrol("shop-2", "02")
    # Both gateways stop and start while nobody answers: everybody is known, as of then.
    async with following(api, tmp_path / "2") as again:
        again.registry.check_certificate(node="shop-1", serial="01")
        assert _software(again) == "9"
        api.fault = None
        await until(again.follow.nodes.synced.is_set, "the list")


async def _joined(one: Copy) -> None:
    """The node shop-1, by this gateway, which has heard of it by the watch as well."""
    await trio.to_thread.run_sync(one.registry.add_token, TOKEN)
    await one.enrol("shop-1", "01")
    await until(lambda: bool(one.follow.nodes.objects), "the watch")


async def test_who_was_removed_meanwhile_is_not_known_after_a_start(api: FakeApi, tmp_path: Path) -> None:
    async with following(api, tmp_path / "1") as one:
        await trio.to_thread.run_sync(one.registry.add_token, TOKEN)
        await one.enrol("shop-1", "01")
    api.remove("configmaps", "raven-system/raven-node-shop-1")
    async with following(api, tmp_path / "1") as one:
        await until(lambda: one.registry.node("shop-1") is None, "the node to go")


async def test_a_removal_that_is_older_than_the_join_after_it_removes_nobody(
    api: FakeApi, tmp_path: Path
) -> None:
    """The watch may tell of it after the answer to the join."""
    async with following(api, tmp_path / "1") as one:
        await until(one.follow.nodes.synced.is_set, "the list")
        await trio.to_thread.run_sync(one.registry.add_token, TOKEN)
        await one.enrol("shop-1", "01")
        assert one.registry.forget({"shop-1": 1}, now=NOW) == ["shop-1"]
        assert one.registry.node("shop-1") is not None


async def test_an_answer_that_is_older_than_the_removal_brings_nobody_back(
    api: FakeApi, tmp_path: Path
) -> None:
    """The node is removed while the answer to what was written of it is on its way."""
    async with following(api, tmp_path / "1") as one:
        await _joined(one)
        (written,) = one.follow.nodes.objects.values()
        assert one.registry.forget({"shop-1": version_of(written)}, now=NOW) == []  # as the watch tells it
        assert one.registry.node("shop-1") is None
        assert one.registry.take([written], now=NOW) == {}
        assert one.registry.node("shop-1") is None


async def test_a_change_and_a_removal_at_once_bring_nobody_back(api: FakeApi, tmp_path: Path) -> None:
    """The answer to the change comes last."""
    async with following(api, tmp_path / "1") as one:
        await _joined(one)
        changed = await one.follow.store.allow_pods("shop-1", ("10.9.0.0/16",))
        assert changed is not None
        api.remove("configmaps", "raven-system/raven-node-shop-1")
        await until(lambda: one.registry.node("shop-1") is None, "the node to go")
        assert one.registry.forget({"shop-1": sys.maxsize}, now=NOW) == []  # asked about as well
        assert one.registry.take([changed], now=NOW) == {}
        assert one.registry.node("shop-1") is None


async def test_who_is_gone_by_the_watch_and_was_written_since_is_asked_about(
    api: FakeApi, tmp_path: Path
) -> None:
    async with following(api, tmp_path / "1") as one:
        await _joined(one)
        api.cut()
        api.compact()  # the next list is all that tells of what comes now
        assert await trio.to_thread.run_sync(one.registry.allow_pods, "shop-1", ["10.9.0.0/16"])
        api.remove("configmaps", "raven-system/raven-node-shop-1")
        away = status(503, "ServiceUnavailable", "away")
        asked: list[str] = []

        def fail_first(request: httpx.Request) -> httpx.Response | None:
            if request.url.path.endswith("/raven-node-shop-1"):
                asked.append(request.method)
                return away if len(asked) <= 4 else None  # as often as a read is tried
            return None

        api.fault = fail_first
        api.compact()
        await until(lambda: one.registry.node("shop-1") is None, "the node to go")
        assert len(asked) > 4


async def test_a_spoiled_object_leaves_its_node_as_it_was_and_is_told(api: FakeApi, tmp_path: Path) -> None:
    async with two(api, tmp_path) as (one, other):
        await trio.to_thread.run_sync(one.registry.add_token, TOKEN)
        await one.enrol("shop-1", "01")
        name = "raven-system/raven-node-shop-1"
        good = dict(api.objects["configmaps", name]["data"])
        await until(lambda: other.registry.node("shop-1") is not None, "the node")
        api.change("configmaps", name, {"data": {"node": "{"}})
        await until(lambda: any("raven-node-shop-1" in one for one in other.follow.problems()), "a problem")
        other.registry.check_certificate(node="shop-1", serial="01")
        api.change("configmaps", name, {"data": good})
        await until(
            lambda: not other.follow.problems() or "raven-ca" in other.follow.problems()[0], "its end"
        )


async def test_the_ca_is_handed_on_and_missed(api: FakeApi, tmp_path: Path) -> None:
    ca = shared(seed=7)
    async with following(api, tmp_path / "1") as one:
        await until(lambda: bool(one.cas), "the first CA")
        api.remove("secrets", "raven-system/raven-ca")
        await until(lambda: any("raven-ca" in said for said in one.follow.problems()), "the CA to be missed")
        await one.follow.store.create_ca(ca)
        await until(lambda: one.cas[-1:] == [ca], "the CA")
        assert one.follow.problems() == []


async def test_a_directory_with_a_registry_of_its_own_is_imported_first(api: FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "1"
    own = SqliteRegistry(path, now=NOW)
    own.add_token(TOKEN)
    own.add_token(dataclasses.replace(TOKEN, id="dead", expires=1.0))
    enrol(own, "shop-1", "01")
    own.close()
    done: list[bool] = []
    taken = node_object(SharedNode(name="shop-2", created=NOW), namespace="raven-system")
    api.add(CONFIG_MAPS, taken)
    faults = iter([status(503, "ServiceUnavailable", "away")])
    api.fault = lambda request: next(faults, None) if request.method == "POST" else None
    async with following(api, path, imported=lambda: done.append(True)) as one:
        await until(lambda: bool(done), "the import")
        await until(lambda: one.registry.node("shop-2") is not None, "the others' node")
        one.registry.check_certificate(node="shop-1", serial="01")
    async with following(api, tmp_path / "2") as other:
        await until(lambda: other.registry.node("shop-1") is not None, "the imported node")
        other.registry.check_certificate(node="shop-1", serial="01")
        assert {token.id for token in await trio.to_thread.run_sync(other.registry.tokens)} == {"tok"}


async def test_nodes_cost_no_request_while_nothing_happens(api: FakeApi, tmp_path: Path) -> None:
    api.add(CONFIG_MAPS, {"metadata": {"name": "other", "namespace": "raven-system"}})
    for number in range(200):
        node = SharedNode(name=f"shop-{number}", created=NOW)
        api.add(CONFIG_MAPS, node_object(node, namespace="raven-system"))
    async with following(api, tmp_path / "1") as one:
        await until(lambda: len(one.registry.nodes()) == 200, "the nodes")
        await until(lambda: len(api.requests) >= 4, "both watches")
        asked = len(api.requests)
        one.registry.record_seen({f"shop-{number}": NOW for number in range(200)})
        await trio.sleep(0.5)
        assert len(api.requests) == asked
        assert not one.registry.noted()
