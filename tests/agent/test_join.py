import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.join import Joined, join
from gateway.admin.token import add_token
from gateway.join import OwnEnroller, serve_join
from raven.config import Address
from raven.control.messages import JoinAccepted, JoinHello, JoinMessage, JoinRefused, JoinRequest, Message
from raven.errors import ConfigError, PeerError, RefusedError, StateError
from raven.net.join_channel import JoinChannel
from raven.net.joining import converse
from raven.net.tls import agent_context, check_gateway, check_node, gateway_context
from raven.net.tls_stream import HandshakeFailed, server_handshake
from raven.pki.ca import Authority
from raven.pki.certificate import Leaf
from raven.pki.token import JoinToken, new_token
from raven.registry.agent_state import open_agent
from raven.registry.gateway_state import GatewayState, open_gateway
from raven.registry.sqlite import SqliteRegistry
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


# From here on against the real gateway's end, over TLS and TCP.


@dataclass
class World:
    state: GatewayState
    registry: SqliteRegistry
    context: ssl.SSLContext
    address: Address
    ended: trio.MemorySendChannel[str]
    endings: trio.MemoryReceiveChannel[str]
    answers: bool = True  # False: the line breaks before the answer

    def token(self, node: str | None = None) -> str:
        return add_token(self.registry, self.state.authority.pin, node=node, now=time.time())

    async def serve(self, transport: trio.SocketStream) -> None:
        try:
            stream = await server_handshake(transport, self.context)
        except HandshakeFailed:
            return
        served: trio.abc.Stream = stream if self.answers else Mute(stream)
        result = await serve_join(
            served,
            enroller=OwnEnroller(self.state.authority, self.registry),
            gateways=["gw.example.com:443"],
            peer="test",
        )
        await self.ended.send(result.verdict)

    async def verdicts(self, count: int) -> list[str]:
        """Of the next joins to end."""
        with trio.fail_after(10):
            return [await self.endings.receive() for _ in range(count)]


class Mute(trio.abc.Stream):
    """Lets the hello out and breaks when the answer is due."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sent = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._sent += 1
        if self._sent > 1:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[World]:
    state = open_gateway(directory, hosts=["127.0.0.1"], now=time.time())
    registry = SqliteRegistry(state.registry, now=time.time())
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = Address("127.0.0.1", listener.socket.getsockname()[1])
        world = World(state, registry, gateway_context(state), address, *trio.open_memory_channel[str](100))
        nursery.start_soon(trio.serve_listeners, world.serve, [listener])
        yield world
        nursery.cancel_scope.cancel()
    registry.close()
    state.close()


async def quick_join(directory: Path, world: World, token: str, node: str = "shop-1", **given: Any) -> Joined:
    joined = await join(directory, gateway=world.address, token=token, node=node, **given)
    joined.state.close()
    return joined


async def test_a_joined_node_can_dial_its_gateway(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        joined = await quick_join(tmp_path / "agent", world, world.token())
        assert abs(joined.clock_skew) < 5
        state = open_agent(tmp_path / "agent", now=time.time())
        assert (state.node, state.cluster) == ("shop-1", world.state.cluster)
        assert state.gateways == ("gw.example.com:443",)
        near, far = trio.testing.memory_stream_pair()
        client = trio.SSLStream(near, agent_context(state))
        server = trio.SSLStream(far, world.context, server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
        peer = check_node(server, cluster=world.state.cluster)
        world.registry.check_certificate(node=peer.identity.name, serial=peer.serial)
        assert check_gateway(client, cluster=state.cluster).identity.name == "gateway"
        state.close()


async def test_a_join_whose_answer_is_lost_succeeds_with_the_same_token(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        token = world.token()
        world.answers = False
        with pytest.raises(PeerError) as caught:
            await quick_join(tmp_path / "agent", world, token)
        assert caught.value.reason == "closed"
        assert [node.name for node in world.registry.nodes()] == ["shop-1"]
        world.answers = True
        assert (await quick_join(tmp_path / "agent", world, f" {token}\n")).state.node == "shop-1"
        (certificate,) = world.registry.certificates("shop-1")
        assert (tmp_path / "agent" / "node.crt").read_text() == certificate.pem


async def test_each_refusal_reaches_the_user_and_writes_no_identity(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        used = world.token()
        await quick_join(tmp_path / "first", world, used)
        for token, node, reason in [
            (used, "shop-2", "token-used"),
            (world.token(), "shop-1", "node-taken"),
            (world.token("shop-9"), "shop-2", "token-node"),
            (world.token()[:-1], "shop-2", "token-malformed"),
            (new_token(OTHER_CA.pin, random=seeded()).text(), "shop-2", "wrong-pin"),
        ]:
            with pytest.raises(RefusedError) as caught:
                await quick_join(tmp_path / "second", world, token, node)
            assert caught.value.reason == reason
            with pytest.raises(StateError, match="no identity here"):
                open_agent(tmp_path / "second", now=0)
        # The one that was stopped by its pin never got as far as a request.
        assert await world.verdicts(5) == [
            "accepted",
            "token-used",
            "node-taken",
            "token-node",
            "closed",
        ]


async def test_joining_again_needs_force_and_a_token_for_the_node(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        await quick_join(tmp_path / "agent", world, world.token())
        token = world.token("shop-1")
        with pytest.raises(StateError, match="already joined"):
            await quick_join(tmp_path / "agent", world, token)
        before = (tmp_path / "agent" / "node.key").read_bytes()
        await quick_join(tmp_path / "agent", world, token, force=True)
        assert (tmp_path / "agent" / "node.key").read_bytes() != before
        newest = world.registry.certificates("shop-1")[0]
        assert (tmp_path / "agent" / "node.crt").read_text() == newest.pem


async def test_two_joiners_race_for_one_token(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        token = world.token()
        outcomes: list[str] = []

        async def race(node: str) -> None:
            try:
                await quick_join(tmp_path / node, world, token, node)
                outcomes.append("joined")
            except RefusedError as error:
                outcomes.append(error.reason)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(race, f"shop-{number}")
        assert sorted(outcomes) == ["joined", "token-used", "token-used", "token-used"]
        assert len(world.registry.nodes()) == 1


@pytest.mark.parametrize("node", ["", "Shop", "a/b", "x" * 254])
async def test_an_unusable_name_is_found_before_anything_else(tmp_path: Path, node: str) -> None:
    with pytest.raises(ConfigError, match="--node"):
        await join(tmp_path / "agent", gateway=Address("127.0.0.1", 1), token="x", node=node)
    assert not (tmp_path / "agent").exists()


async def test_a_gateway_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", unused.getsockname()[1])
        with pytest.raises(PeerError, match=rf"{address} cannot be reached: .*refused") as caught:
            await join(tmp_path / "agent", gateway=address, token=TOKEN.text(), node="shop-1")
    assert caught.value.reason == "unreachable"


Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def say_http(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await stream.send_eof()
    while await stream.receive_some():
        pass


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)
    await stream.aclose()


@pytest.mark.parametrize(
    ("handler", "sentence"), [(say_http, "does not speak TLS"), (hang_up, r"hung up|connection broke|broke")]
)
async def test_what_is_no_gateway_is_named(tmp_path: Path, handler: Handler, sentence: str) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        address = Address("127.0.0.1", listener.socket.getsockname()[1])
        with pytest.raises(PeerError, match=sentence) as caught:
            await join(tmp_path / "agent", gateway=address, token=TOKEN.text(), node="shop-1")
        nursery.cancel_scope.cancel()
    assert caught.value.reason == "handshake"
    assert str(address) in str(caught.value)


async def test_a_busy_gateway_is_no_stranger(tmp_path: Path) -> None:
    async def busy(stream: trio.SocketStream) -> None:
        await stream.send_all(b"RAVEN BUSY 7\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, busy, [listener])
        address = Address("127.0.0.1", listener.socket.getsockname()[1])
        with pytest.raises(
            PeerError, match=rf"{address}: it is busy, and asks to come back in 7 s"
        ) as caught:
            await join(tmp_path / "agent", gateway=address, token=TOKEN.text(), node="shop-1")
        nursery.cancel_scope.cancel()
    assert caught.value.reason == "busy"


async def test_a_tls_server_of_another_kind_is_named(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway") as world:
        world.context.set_alpn_protocols(["h2"])
        with pytest.raises(PeerError, match="is it a Raven gateway") as caught:
            await quick_join(tmp_path / "agent", world, world.token())
    assert caught.value.reason == "wrong-alpn"
