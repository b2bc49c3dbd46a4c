"""A certificate request from its making to its answer, on the fake API server in virtual time."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from raven.errors import PeerError, RefusedError
from raven.kube.errors import KubeError
from raven.kube.requesting import request_certificate
from raven.kube.signing import SIGNER, bootstrap_token_id, request_name
from raven.pki.csr import key_hash, make_csr
from tests.kube.fake import FakeApi, status
from tests.pki.material import make_key

KEY = make_key(7)
ASKER = "system:node:shop-1"
NAME = request_name("shop-1", asker=ASKER, key_hash=key_hash(KEY.public_key()))
PLURAL = "certificatesigningrequests"


class Asking:
    """An API server, what the asker was told, and how it ended."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.said: list[str] = []

    async def ask(self, *, wait: float = 60.0, seed: int = 7) -> str:
        key = make_key(seed)
        return await request_certificate(
            self.api.client(),
            node="shop-1",
            csr_pem=make_csr(key, "shop-1"),
            asker=ASKER,
            say=self.said.append,
            wait=wait,
        )

    def answer(self, *conditions: tuple[str, str], certificate: str = "") -> None:
        written = [{"type": type, "status": "True", "message": said} for type, said in conditions]
        body: dict[str, Any] = {"conditions": written}
        if certificate:
            body["certificate"] = base64.b64encode(certificate.encode()).decode()
        self.api.change(PLURAL, NAME, {"status": body})


async def test_what_is_asked_for_and_what_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    asking = Asking()
    got: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: _into(got, asking))
        await trio.sleep(1)
        spec = asking.api.objects[PLURAL, NAME]["spec"]
        assert (spec["signerName"], spec["usages"]) == (SIGNER, ["client auth", "digital signature"])
        asking.answer(("Approved", ""), certificate="PEM")
    assert got == ["PEM"]
    assert asking.said == []  # a gateway that leads is quick


async def _into(got: list[str], asking: Asking) -> None:
    got.append(await asking.ask())


async def test_it_says_what_it_waits_for_once_and_then_gives_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asking = Asking()
    with pytest.raises(PeerError, match=f"after 60 s still .*kubectl certificate approve {NAME}") as caught:
        await asking.ask()
    assert caught.value.reason == "pending"
    assert asking.said == [f"waiting for approval: kubectl certificate approve {NAME}"]
    asking.answer(("Approved", "by hand"))
    with pytest.raises(PeerError, match="a gateway to sign") as caught:
        await asking.ask()
    assert caught.value.reason == "unsigned"
    asking.answer(("Approved", "by hand"), certificate="PEM")
    assert await asking.ask() == "PEM"
    assert len(asking.api.all(PLURAL)) == 1  # all of it about one request


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([("Denied", "shop-1 is sold")], "shop-1 is sold"),
        ([("Approved", ""), ("Failed", "just now")], "just now"),
        ([("Denied", "")], "no reason was given"),
    ],
)
async def test_a_refusal_has_the_approvers_words(
    autojump_clock: trio.testing.MockClock, conditions: list[tuple[str, str]], said: str
) -> None:
    asking = Asking()
    with pytest.raises(PeerError):
        await asking.ask(wait=0)
    asking.answer(*conditions)
    with pytest.raises(RefusedError, match=f"{NAME} was denied: {said}"):
        await asking.ask()


async def test_another_key_has_another_request(autojump_clock: trio.testing.MockClock) -> None:
    asking = Asking()
    for seed in (7, 8, 7):
        with pytest.raises(PeerError):
            await asking.ask(wait=0, seed=seed)
    assert len(asking.api.all(PLURAL)) == 2


async def test_a_request_of_somebody_else_under_our_name_is_not_ours(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asking = Asking()
    other = base64.b64encode(make_csr(make_key(8), "shop-1").encode()).decode()
    for request in (other, "", "nonsense"):
        spec = {"request": request, "signerName": SIGNER, "usages": []}
        asking.api.objects[PLURAL, NAME] = {"metadata": {"name": NAME}, "spec": spec}
        with pytest.raises(RefusedError, match="another key"):
            await asking.ask()


async def test_an_api_server_that_goes_away_meanwhile_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asking = Asking()
    got: list[str] = []

    def away(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" and trio.current_time() - began < 30:
            raise httpx.ConnectError("refused", request=request)
        return None

    began = trio.current_time()
    asking.api.fault = away
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: _into(got, asking))
        await trio.sleep(10)
        asking.answer(("Approved", ""), certificate="PEM")
    assert got == ["PEM"]
    assert any("out of reach" in said for said in asking.said)


async def test_what_can_only_get_worse_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    asking = Asking()
    asking.api.fault = lambda request: status(403, "Forbidden", "no") if request.method == "GET" else None
    with pytest.raises(KubeError) as caught:
        await asking.ask()
    assert caught.value.reason == "forbidden"
    assert trio.current_time() < 5

    def vanish(request: httpx.Request) -> httpx.Response | None:
        return status(404, "NotFound", "gone") if request.method == "GET" else None

    asking.api.fault = vanish
    with pytest.raises(RefusedError, match="deleted"):
        await asking.ask(seed=9)


def test_names_are_names_of_objects() -> None:
    assert len(request_name("a" * 64, asker=ASKER, key_hash=b"x")) <= 253
    assert request_name("a", asker="x", key_hash=b"k") != request_name("a", asker="y", key_hash=b"k")


@pytest.mark.parametrize(
    ("text", "token_id"),
    [
        ("abcdef.0123456789abcdef", "abcdef"),
        ("abcdef.0123456789abcde", ""),
        ("ABCDEF.0123456789abcdef", ""),
        ("raven1.a.b.c", ""),
        ("", ""),
    ],
)
def test_bootstrap_tokens(text: str, token_id: str) -> None:
    assert bootstrap_token_id(text) == token_id
