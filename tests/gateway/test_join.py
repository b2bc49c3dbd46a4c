import contextlib
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.admin.token import add_token
from gateway.join import ACCEPTED, JoinResult, OwnEnroller, serve_join
from raven.control.messages import JoinAccepted, JoinHello, JoinMessage, JoinRefused, JoinRequest, encode
from raven.errors import PeerError
from raven.net.join_channel import JOIN_MESSAGE_MAX, JoinChannel
from raven.pki.certificate import load_leaf
from raven.pki.csr import key_hash, make_csr
from raven.pki.identity import node_identity
from raven.registry.sqlite import SqliteRegistry
from tests.pki.material import NOW, make_authority, make_key, seeded

CA = make_authority()
KEY = make_key(7)
GATEWAYS = ["gw.example.com:443", "[2001:db8::1]:443"]
PEER = "192.0.2.7:40000"


@dataclass
class World:
    """A gateway's CA and registry, and joins served over memory."""

    registry: SqliteRegistry
    path: Path
    now: float = NOW
    random: Callable[[int], bytes] = field(default_factory=seeded)
    step_timeout: float = 10.0

    def token(self, node: str | None = None, *, ttl: float = 3600, reusable: bool = False) -> str:
        return add_token(self.registry, CA.pin, node=node, ttl=ttl, reusable=reusable, now=NOW)

    async def serve(self, speak: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]) -> JoinResult:
        """What came of a join whose other end is `speak`."""
        near, far = trio.testing.memory_stream_pair()
        results = []
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    results.append(
                        await serve_join(
                            far,
                            enroller=OwnEnroller(CA, self.registry, self.random),
                            gateways=GATEWAYS,
                            peer=PEER,
                            now=lambda: self.now,
                            step_timeout=self.step_timeout,
                        )
                    )

                nursery.start_soon(serve)
                await speak(near)
        return results[0]

    async def ask(self, request: JoinRequest | bytes) -> tuple[JoinResult, JoinMessage]:
        answers: list[JoinMessage] = []

        async def speak(stream: trio.abc.HalfCloseableStream) -> None:
            channel = JoinChannel(stream)
            assert await channel.receive() == JoinHello(
                ca_pem=CA.certificate_pem, cluster="lab", now=self.now, seen_as=PEER
            )
            if isinstance(request, bytes):
                await stream.send_all(request)
            else:
                await channel.send(request)
            answers.append(await channel.receive())
            # Nothing follows the answer.
            await stream.send_eof()
            assert await stream.receive_some(1) == b""

        return await self.serve(speak), answers[0]

    async def refusal(self, request: JoinRequest | bytes) -> str:
        before = self.registry.nodes(), len(self.registry.certificates("shop-1"))
        result, answer = await self.ask(request)
        assert isinstance(answer, JoinRefused)
        assert (answer.reason, answer.message) == (result.verdict, result.message)
        assert len(answer.message.split()) >= 4
        assert (
            self.registry.nodes(),
            len(self.registry.certificates("shop-1")),
        ) == before
        return answer.reason


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    path = tmp_path / "registry.sqlite"
    with contextlib.closing(SqliteRegistry(path, now=NOW)) as registry:
        yield World(registry, path)


def request(token: str, node: str = "shop-1", *, csr: str | None = None) -> JoinRequest:
    return JoinRequest(token=token, node=node, csr_pem=make_csr(KEY, node) if csr is None else csr)


async def test_a_node_gets_a_certificate_for_its_name_and_key(world: World) -> None:
    result, answer = await world.ask(request(world.token()))
    assert isinstance(answer, JoinAccepted)
    leaf = load_leaf(answer.certificate_pem.encode())
    assert CA.issued(leaf)
    assert (leaf.identity, leaf.key_hash) == (node_identity("lab", "shop-1"), key_hash(KEY.public_key()))
    assert (answer.ca_pem, answer.cluster, answer.gateways) == (CA.certificate_pem, "lab", GATEWAYS)
    assert (result.verdict, result.node) == (ACCEPTED, "shop-1")
    node = world.registry.node("shop-1")
    assert node is not None
    assert node.certificate_serial == leaf.serial
    (certificate,) = world.registry.certificates("shop-1")
    assert (certificate.key_hash, certificate.not_after) == (leaf.key_hash, leaf.not_after)
    newest = world.registry.audit()[0]
    assert (newest.event, newest.node, newest.asker, newest.verdict) == ("join", "shop-1", PEER, "allowed")


async def test_the_names_in_a_request_mean_nothing(world: World) -> None:
    _, answer = await world.ask(request(world.token(), csr=make_csr(KEY, "admin")))
    assert isinstance(answer, JoinAccepted)
    assert load_leaf(answer.certificate_pem.encode()).identity.name == "shop-1"
    assert "admin" not in str(answer)


async def test_each_bad_token_has_its_word(world: World) -> None:
    good = world.token()
    bound = world.token("shop-9")
    parts = good.split(".")
    forged = ".".join([*parts[:2], "A" * len(parts[2]), parts[3]])
    unknown = ".".join([parts[0], "AAAAAAAA", *parts[2:]])
    assert await world.refusal(request(forged)) == "token-unknown"
    assert await world.refusal(request(unknown)) == "token-unknown"
    assert await world.refusal(request(good[:-4])) == "token-malformed"
    assert await world.refusal(request("")) == "token-malformed"
    assert await world.refusal(request(bound)) == "token-node"
    await world.ask(request(good))
    assert await world.refusal(request(good, "shop-2")) == "token-used"
    assert await world.refusal(request(world.token(reusable=True))) == "node-taken"
    expiring = world.token(ttl=60)
    world.now += 60
    assert await world.refusal(request(expiring, "shop-2")) == "token-expired"


async def test_a_token_of_another_gateway_is_unknown(world: World, tmp_path: Path) -> None:
    with contextlib.closing(SqliteRegistry(tmp_path / "other.sqlite", now=NOW)) as other:
        foreign = add_token(other, make_authority(seed=2).pin, now=NOW)
    assert await world.refusal(request(foreign)) == "token-unknown"


async def test_a_token_for_a_node_lets_it_join_again(world: World) -> None:
    await world.ask(request(world.token()))
    _, answer = await world.ask(request(world.token("shop-1"), csr=make_csr(make_key(8), "x")))
    assert isinstance(answer, JoinAccepted)
    assert load_leaf(answer.certificate_pem.encode()).key_hash == key_hash(make_key(8).public_key())


async def test_a_bad_request_for_a_certificate_spends_no_token(world: World) -> None:
    token = world.token()
    good = make_csr(KEY, "shop-1")
    for csr in ("", "garbage", good[:200], good.replace("M", "N", 1), "x" * 60_000):
        assert await world.refusal(request(token, csr=csr)) == "bad-csr"
    result, _ = await world.ask(request(token))
    assert result.verdict == ACCEPTED


def framed(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (framed(b"garbage"), "bad-join"),
        (framed(b"{}"), "bad-join"),
        (framed(encode(request("t")).replace(b"shop-1", b"Shop_1")), "bad-join"),
        (framed(encode(JoinHello(ca_pem="", cluster="lab", now=1.0))), "bad-request"),
        (struct.pack("!I", JOIN_MESSAGE_MAX + 1) + bytes(300_000), "oversized"),
        (b"GET / HTTP/1.1\r\n\r\n", "oversized"),
    ],
)
async def test_what_is_no_request_is_refused_with_a_reason(world: World, wire: bytes, reason: str) -> None:
    assert await world.refusal(wire) == reason


async def test_an_oversized_message_is_answered_over_tcp_too(world: World) -> None:
    """Closing with bytes unread resets a TCP connection, which would take the answer with it."""
    results = []

    async def handle(stream: trio.SocketStream) -> None:
        results.append(
            await serve_join(stream, enroller=OwnEnroller(CA, world.registry), gateways=[], peer=PEER)
        )

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        stream = await trio.testing.open_stream_to_socket_listener(listener)
        channel = JoinChannel(stream)
        await channel.receive()
        await stream.send_all(struct.pack("!I", 1 << 20) + bytes(1 << 20))
        answer = await channel.receive()
        await stream.aclose()
        nursery.cancel_scope.cancel()
    assert isinstance(answer, JoinRefused)
    assert answer.reason == "oversized"


async def test_half_a_join_is_counted_by_how_it_ended(world: World) -> None:
    async def hang_up(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.aclose()

    async def hang_up_after_half(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(framed(encode(request("t")))[:50])
        await stream.send_eof()
        while await stream.receive_some():
            pass

    assert (await world.serve(hang_up)).verdict == "closed"
    assert (await world.serve(hang_up_after_half)).verdict == "closed"


async def test_one_who_says_nothing_is_refused_in_time(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def listen(stream: trio.abc.HalfCloseableStream) -> None:
        channel = JoinChannel(stream, step_timeout=100)
        await channel.receive()
        answer = await channel.receive()
        assert isinstance(answer, JoinRefused)
        assert answer.reason == "timeout"

    async def ignore(stream: trio.abc.HalfCloseableStream) -> None:
        await trio.sleep(60)

    began = trio.current_time()
    assert (await world.serve(listen)).verdict == "timeout"
    assert trio.current_time() - began <= 15
    assert (await world.serve(ignore)).verdict == "timeout"


async def test_a_lost_answer_is_given_again_to_the_same_key_only(world: World) -> None:
    token = world.token()

    async def hang_up_after_asking(stream: trio.abc.HalfCloseableStream) -> None:
        channel = JoinChannel(stream)
        await channel.receive()
        await channel.send(request(token))
        await stream.aclose()

    await world.serve(hang_up_after_asking)
    (certificate,) = world.registry.certificates("shop-1")
    _, answer = await world.ask(request(token))
    assert isinstance(answer, JoinAccepted)
    assert answer.certificate_pem == certificate.pem
    assert await world.refusal(request(token, csr=make_csr(make_key(8), "shop-1"))) == "token-used"


async def test_strangers_cannot_wash_out_the_audit(world: World) -> None:
    token = world.token()
    before = world.registry.audit()
    for bad in (request("garbage"), request(token, csr="garbage"), framed(b"garbage"), request(CA_TOKEN)):
        await world.refusal(bad)
    assert world.registry.audit() == before
    await world.ask(request(token))
    await world.refusal(request(token, "shop-2"))
    assert [line.verdict for line in world.registry.audit(limit=2)] == ["token-used", "allowed"]


CA_TOKEN = "raven1.AAAAAAAA." + "A" * 32 + "." + "A" * 43


async def test_a_registry_that_fails_is_no_business_of_strangers(world: World) -> None:
    token = world.token()
    world.registry.close()
    result, answer = await world.ask(request(token))
    assert isinstance(answer, JoinRefused)
    assert (answer.reason, result.verdict) == ("unavailable", "unavailable")
    assert str(world.path) not in answer.message
    assert str(world.path) in result.message


async def test_cancelling_closes_the_stream(world: World) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_join(far, enroller=OwnEnroller(CA, world.registry), gateways=[], peer=PEER)

        nursery.start_soon(serve)
        await JoinChannel(near).receive()
        nursery.cancel_scope.cancel()
    with pytest.raises((PeerError, trio.BrokenResourceError)):
        await JoinChannel(near).send(request("t"))
