"""The conditional writes against the fake API server: two at once, and who dies between two writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

import httpx
import pytest
import trio

from raven.errors import RefusedError
from raven.kube.errors import KubeError
from raven.pki.renewal import LEAF_LIFE
from raven.pki.token import hash_secret
from raven.registry.interface import CredentialRecord
from raven.registry.kubernetes_node import VOUCHED
from raven.registry.kubernetes_objects import node_object_name, read_node
from raven.registry.kubernetes_store import Store, Written
from tests.kube.fake import FakeApi, status
from tests.registry.records import KEY, NOW, SECRET, issuing, shared
from tests.registry.records import token as token_record

OTHER = b"o" * 32
TOKEN = token_record()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def store(api: FakeApi) -> Store:
    """As one gateway has it."""
    return Store(api.client(), "raven-system", jitter=lambda: 0.5)


def enrol(
    store: Store,
    node: str,
    serial: str,
    *,
    token_id: str = "tok",
    secret: bytes = SECRET,
    key_hash: bytes = KEY,
    now: float = NOW,
) -> Awaitable[Written]:
    return store.enrol(
        token_id=token_id,
        secret=secret,
        node=node,
        key_hash=key_hash,
        now=now,
        issue=issuing(serial, key_hash=key_hash, now=now),
    )


async def reason(doing: Awaitable[object]) -> str:
    with pytest.raises(RefusedError) as caught:
        await doing
    return caught.value.reason


async def test_a_node_joins_and_the_same_again_gets_the_same(api: FakeApi) -> None:
    one, other = store(api), store(api)
    await one.add_token(TOKEN)
    first = await enrol(one, "shop-1", "01")
    assert first.certificate == issuing("01")("shop-1")
    again = await enrol(other, "shop-1", "02")
    assert again.certificate == first.certificate
    ((_, held),) = await other.tokens()
    assert (held.record.uses, held.record.used_by, held.used_key) == (1, "shop-1", KEY)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"token_id": "none"}, "token-unknown"),
        ({"secret": b"x" * 24}, "token-unknown"),
        ({"now": NOW + 3600}, "token-expired"),
        ({"token_id": "bound"}, "token-node"),
        ({"token_id": "gw"}, "token-role"),
        ({"key_hash": OTHER}, "token-used"),
        ({"node": "shop-2"}, "token-used"),
        ({"token_id": "free"}, "node-taken"),
        ({"token_id": "many"}, "node-taken"),
    ],
)
async def test_each_refusal_has_its_word_and_writes_nothing(
    api: FakeApi, given: dict[str, object], why: str
) -> None:
    gateway = store(api)
    for token in (
        TOKEN,
        dataclasses.replace(TOKEN, id="free"),
        dataclasses.replace(TOKEN, id="bound", node="shop-9"),
        dataclasses.replace(TOKEN, id="gw", role="gateway"),
        dataclasses.replace(TOKEN, id="many", reusable=True),
    ):
        await gateway.add_token(token)
    await enrol(gateway, "shop-1", "01")
    before = api.version
    asked = {"node": "shop-1", **given}
    assert await reason(enrol(gateway, asked.pop("node"), "FF", **asked)) == why  # type: ignore[arg-type]
    assert api.version == before


@pytest.mark.parametrize("at", [1, 2, 3, 4])  # of the four requests of a join
async def test_of_two_who_come_with_one_token_one_wins(api: FakeApi, at: int) -> None:
    first, second = store(api), store(api)
    await first.add_token(TOKEN)
    ends = []

    async def join(gateway: Store, node: str, key: bytes) -> None:
        try:
            await enrol(gateway, node, node, key_hash=key)
            ends.append("joined")
        except RefusedError as error:
            ends.append(error.reason)

    _interpose(api, at=at, then=lambda: join(second, "shop-2", OTHER))
    await join(first, "shop-1", KEY)
    assert sorted(ends) == ["joined", "token-used"]
    assert len(api.all("configmaps")) == 1


def _interpose(api: FakeApi, *, at: int, then: Callable[[], Awaitable[None]]) -> None:
    """Has `then` done between the requests `at - 1` and `at` from now on."""
    handle = api.handle_async_request
    number = 0

    async def handled(request: httpx.Request) -> httpx.Response:
        nonlocal number
        number += 1
        if number == at:
            await then()
        return await handle(request)

    api.handle_async_request = handled  # type: ignore[method-assign]


@pytest.mark.parametrize("node", [None, "shop-1"])
async def test_who_died_between_token_and_node_goes_on_at_another_gateway(
    api: FakeApi, node: str | None
) -> None:
    gateways = store(api), store(api)
    await gateways[0].add_token(dataclasses.replace(TOKEN, node=node))

    def fail(request: httpx.Request) -> httpx.Response | None:
        died = request.method == "POST" and "configmaps" in str(request.url)
        return status(500, "InternalError", "died") if died else None

    api.fault = fail
    with pytest.raises(KubeError):
        await enrol(gateways[0], "shop-1", "01")
    api.fault = None
    assert not api.all("configmaps")
    assert await reason(enrol(gateways[1], "shop-1", "02", key_hash=OTHER)) == "token-used"
    if node is None:
        assert await reason(enrol(gateways[1], "shop-2", "03")) == "token-used"
    written = await enrol(gateways[1], "shop-1", "04")
    assert written.certificate.serial == "04"
    ((_, held),) = await gateways[0].tokens()
    assert held.record.uses == 1


async def test_a_node_that_is_removed_does_not_come_back_by_the_token_it_spent(api: FakeApi) -> None:
    gateway = store(api)
    await gateway.add_token(TOKEN)
    await enrol(gateway, "shop-1", "01")
    assert await gateway.remove_node("shop-1")
    assert not await gateway.remove_node("shop-1")
    assert await reason(enrol(gateway, "shop-1", "02")) == "token-used"


async def test_a_reusable_token_serves_many_at_once(api: FakeApi) -> None:
    gateways = [store(api) for _ in range(4)]
    await gateways[0].add_token(dataclasses.replace(TOKEN, reusable=True))
    async with trio.open_nursery() as nursery:
        for number, gateway in enumerate(gateways):
            nursery.start_soon(_awaited, enrol(gateway, f"shop-{number}", f"{number:02}"))
    ((_, held),) = await gateways[0].tokens()
    assert held.record.uses == 4
    assert len(api.all("configmaps")) == 4


async def _awaited(doing: Awaitable[object]) -> None:
    await doing


async def test_a_bound_token_lets_its_node_join_again_and_ends_what_it_had(api: FakeApi) -> None:
    gateway = store(api)
    await gateway.add_token(TOKEN)
    await gateway.add_token(dataclasses.replace(TOKEN, id="bound", node="shop-1", pod_cidrs=("10.1.0.0/16",)))
    await enrol(gateway, "shop-1", "01")
    again = await enrol(gateway, "shop-1", "02", token_id="bound", key_hash=OTHER, now=NOW + 5)
    node = read_node(again.object)
    assert [(one.serial, one.revoked) for one in node.certificates] == [("01", NOW + 5), ("02", None)]
    assert node.pod_allow == ("10.1.0.0/16",)


async def test_a_renewal_waits_for_its_time_and_is_repeated_after_a_lost_answer(api: FakeApi) -> None:
    one, other = store(api), store(api)
    await one.add_token(TOKEN)
    await enrol(one, "shop-1", "01")

    def renew(
        at: Store, serial: str, now: float, *, shown: str = "01", key: bytes = OTHER
    ) -> Awaitable[Written]:
        return at.renew(
            node="shop-1",
            serial=shown,
            key_hash=key,
            now=now,
            issue=issuing(serial, key_hash=key, now=now),
            due=False,
        )

    due = NOW + LEAF_LIFE * 2 / 3
    assert await reason(renew(one, "02", NOW + 60)) == "renew-early"
    assert await reason(renew(one, "02", due, shown="77")) == "certificate-replaced"
    first = await renew(one, "02", due)
    assert (await renew(other, "03", due + 1)).certificate == first.certificate
    assert (await renew(other, "03", due + 1, shown="02")).certificate == first.certificate
    assert await reason(renew(other, "03", due + 1, key=KEY)) == "renew-often"
    await one.remove_node("shop-1")
    assert await reason(renew(other, "03", due + 2)) == "node-unknown"


async def test_who_is_admitted_twice_with_one_key_gets_one_certificate(api: FakeApi) -> None:
    gateway = store(api)

    def admit(serial: str, key: bytes) -> Awaitable[Written]:
        return gateway.admit("shop-1", key_hash=key, now=NOW, issue=issuing(serial, key_hash=key))

    first = await admit("01", KEY)
    assert (await admit("02", KEY)).certificate == first.certificate
    node = read_node((await admit("03", OTHER)).object)
    assert [(one.serial, one.revoked is None, one.token) for one in node.certificates] == [
        ("01", False, VOUCHED),
        ("03", True, VOUCHED),
    ]


async def test_two_first_gateways_have_one_ca(api: FakeApi) -> None:
    mine, theirs = shared(seed=1), shared(seed=2)
    assert await store(api).create_ca(mine) == (mine, True)
    assert await store(api).create_ca(theirs) == (mine, False)
    assert await store(api).ca() == mine


async def test_credentials_are_revoked_once(api: FakeApi) -> None:
    gateway = store(api)
    record = CredentialRecord(
        id="x", kind="token", name="ci", secret_hash=hash_secret(SECRET), created=NOW, expires=NOW + 9
    )
    await gateway.add_credential(record)
    assert await gateway.revoke_credential("x", now=NOW + 1) == dataclasses.replace(record, revoked=NOW + 1)
    assert await gateway.revoke_credential("x", now=NOW + 2) is None
    assert await gateway.revoke_credential("y", now=NOW + 2) is None


async def test_what_is_long_dead_goes_with_the_next_one(api: FakeApi) -> None:
    gateway = store(api)
    await gateway.add_token(TOKEN)
    await gateway.add_token(dataclasses.replace(TOKEN, id="new", created=NOW + 32 * 86400, expires=NOW + 9e9))
    assert [held.record.id for _, held in await gateway.tokens()] == ["new"]
    assert await gateway.remove_token("new")
    assert not await gateway.remove_token("new")


async def test_a_spoiled_node_is_no_free_name(api: FakeApi) -> None:
    gateway = store(api)
    await gateway.add_token(TOKEN)
    await enrol(gateway, "shop-1", "01")
    name = f"raven-system/{node_object_name('shop-1')}"
    api.change("configmaps", name, {"data": {"node": "{"}})
    await gateway.add_token(dataclasses.replace(TOKEN, id="next"))
    with pytest.raises(KubeError, match="raven-node-shop-1"):
        await enrol(gateway, "shop-1", "02", token_id="next")
