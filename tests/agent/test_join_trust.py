"""Whom a joining node tells its token, and which answers it believes; the gateway may say anything."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from raven.control.messages import JoinAccepted, JoinHello, JoinMessage, JoinRefused, JoinRequest, Message
from raven.errors import PeerError, RefusedError
from raven.net.join_channel import JoinChannel
from raven.net.joining import converse
from raven.pki.ca import Authority
from raven.pki.certificate import Leaf
from raven.pki.token import JoinToken, new_token
from tests.pki.material import NOW, make_authority, make_key, seeded

CA = make_authority()
OTHER_CA = make_authority(seed=2)
KEY = make_key(7)
TOKEN = new_token(CA.pin, random=seeded())


def gateway_leaf(ca: Authority = CA, *, now: float = NOW) -> Leaf:
    return ca.issue_gateway("gw", make_key(3).public_key(), hosts=[], now=now, random=seeded())


def node_leaf(name: str = "shop-1", ca: Authority = CA, *, seed: int = 7) -> Leaf:
    return ca.issue_node(name, make_key(seed).public_key(), now=NOW, random=seeded())


class PeerStream:
    """A memory stream that says which certificate its TLS connection had."""

    def __init__(self, stream: trio.abc.Stream, leaf: Leaf | None) -> None:
        self.send_all = stream.send_all
        self.receive_some = stream.receive_some
        self._leaf = leaf

    def getpeercert(self, binary_form: bool = False) -> Any:
        assert binary_form
        if self._leaf is None:
            return None
        certificate = x509.load_pem_x509_certificate(self._leaf.pem.encode())
        return certificate.public_bytes(serialization.Encoding.DER)


LEAF = node_leaf()
HELLO = JoinHello(ca_pem=CA.certificate_pem, cluster="lab", now=NOW)
ACCEPTED = JoinAccepted(certificate_pem=LEAF.pem, ca_pem=CA.certificate_pem, cluster="lab", gateways=["h:1"])


@dataclass
class FakeGateway:
    """Says what it is told to; remembers what it heard."""

    hello: Message = HELLO
    leaf: Leaf | None = field(default_factory=gateway_leaf)
    answer: Message = ACCEPTED
    heard: list[JoinMessage] = field(default_factory=list)

    async def joined(self, *, token: JoinToken = TOKEN, now: float = NOW) -> Any:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                channel = JoinChannel(far)
                await channel.send(self.hello)
                with contextlib.suppress(PeerError):
                    self.heard.append(await channel.receive())
                    await channel.send(self.answer)

            nursery.start_soon(serve)
            try:
                stream = PeerStream(near, self.leaf)
                return await converse(stream, token=token, node="shop-1", key=KEY, now=lambda: now)
            finally:
                await near.aclose()

    async def refused(self, **given: Any) -> tuple[str, str]:
        """The reason and sentence of a join that must fail."""
        try:
            await self.joined(**given)
        except* (PeerError, RefusedError) as group:
            error = group.exceptions[0]
            while isinstance(error, ExceptionGroup):  # the nursery's
                error = error.exceptions[0]
            assert isinstance(error, PeerError | RefusedError)
            outcome = error.reason, str(error)
        else:
            pytest.fail("joined")
        return outcome


async def test_the_gateway_is_asked_for_the_node_and_key() -> None:
    gateway = FakeGateway()
    answer = await gateway.joined()
    assert answer.certificate_pem == LEAF.pem
    assert (answer.ca_pem, answer.cluster, answer.gateways) == (CA.certificate_pem, "lab", ["h:1"])
    (request,) = gateway.heard
    assert isinstance(request, JoinRequest)
    assert (request.token, request.node) == (TOKEN.text(), "shop-1")


async def test_a_ca_that_is_not_the_pinned_one_hears_nothing() -> None:
    gateway = FakeGateway(
        JoinHello(ca_pem=OTHER_CA.certificate_pem, cluster="lab", now=NOW), gateway_leaf(OTHER_CA)
    )
    reason, sentence = await gateway.refused()
    assert reason == "wrong-pin"
    assert "somebody in between pretends to be this one" in sentence
    assert "The token was not sent" in sentence
    assert gateway.heard == []


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        # The CA certificate is public: an impostor can show it, and not a certificate of it.
        (gateway_leaf(OTHER_CA), "foreign-certificate"),
        (gateway_leaf(make_authority("other")), "foreign-certificate"),
        (node_leaf(), "wrong-role"),
        (gateway_leaf(now=NOW - 100 * 86400), "certificate-time"),
        (None, "bad-certificate"),
    ],
)
async def test_a_gateway_without_a_certificate_of_its_ca_hears_nothing(
    leaf: Leaf | None, reason: str
) -> None:
    gateway = FakeGateway(leaf=leaf)
    said, sentence = await gateway.refused()
    assert said == reason
    assert "The token was not sent" in sentence
    assert gateway.heard == []


async def test_a_gateway_names_its_own_cluster_or_hears_nothing() -> None:
    gateway = FakeGateway(JoinHello(ca_pem=CA.certificate_pem, cluster="other", now=NOW))
    assert (await gateway.refused())[0] == "wrong-cluster"
    assert gateway.heard == []


@pytest.mark.parametrize("pem", ["", "garbage", node_leaf().pem, CA.certificate_pem[:200]])
async def test_a_ca_that_is_none_hears_nothing(pem: str) -> None:
    gateway = FakeGateway(JoinHello(ca_pem=pem, cluster="lab", now=NOW))
    assert (await gateway.refused())[0] == "bad-ca"
    assert gateway.heard == []


async def test_a_device_that_woke_up_in_the_past_believes_the_pinned_gateway() -> None:
    answer = await FakeGateway().joined(now=86400.0)  # 2 January 1970
    assert answer.clock_skew == NOW - 86400.0


async def test_a_gateway_cannot_make_its_old_certificate_good_by_lying_about_the_time() -> None:
    hello = JoinHello(ca_pem=CA.certificate_pem, cluster="lab", now=NOW)
    assert (await FakeGateway(hello).refused(now=NOW + 100 * 86400))[0] == "certificate-time"


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (node_leaf("shop-2"), "wrong-certificate"),
        (node_leaf(seed=8), "wrong-certificate"),
        (node_leaf(ca=OTHER_CA), "foreign-certificate"),
        (gateway_leaf(), "wrong-role"),
    ],
)
async def test_a_certificate_that_is_not_ours_is_not_kept(certificate: Leaf, reason: str) -> None:
    answer = JoinAccepted(
        certificate_pem=certificate.pem, ca_pem=CA.certificate_pem, cluster="lab", gateways=[]
    )
    assert (await FakeGateway(answer=answer).refused())[0] == reason


async def test_a_gateway_that_talks_nonsense_is_a_peer_error() -> None:
    assert (await FakeGateway(hello=ACCEPTED).refused())[0] == "bad-join"
    assert (await FakeGateway(answer=HELLO).refused())[0] == "bad-join"


async def test_a_refusal_is_passed_on() -> None:
    gateway = FakeGateway(answer=JoinRefused(reason="token-used", message="the token has been used"))
    assert await gateway.refused() == ("token-used", "the gateway refused: the token has been used")
