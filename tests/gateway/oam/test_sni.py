"""The entry by server name: TLS between an asker and a node's service, with no key in between."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from gateway.oam.sni import HELLO_TIMEOUT, NameSplicer
from gateway.tunnels import Offline
from raven.net.tcp import peer_of
from raven.oam.asker import asker_from_address
from raven.oam.permits import Policy
from tests.authority import Authority
from tests.daemons import free_port
from tests.gateway.oam.site import NOW, Site, read_all, serve_tcp, site, target
from tests.oam.hellos import hello, records


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The cluster's; it has signed what the kubelets of edge1 and edge2 show."""
    made = Authority(tmp_path_factory.mktemp("tls") / "pki", "test-ca")
    for node in ("edge1", "edge2"):
        made.sign(node, f"system:node:{node}", groups=["system:nodes"], hosts=[node])
    return made


@dataclass
class Entry:
    site: Site
    splicer: NameSplicer
    port: int  # of the entry

    async def dial(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def dial_tls(self, authority: Authority) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context(cafile=authority.certificate)
        return trio.SSLStream(await self.dial(), context, server_hostname="edge1", https_compatible=True)

    async def ask(self, data: bytes) -> bytes:
        async with await self.dial() as stream:
            await stream.send_all(data)
            return await read_all(stream)


@asynccontextmanager
async def entry(port: int) -> AsyncIterator[Entry]:
    """An entry that leads to `port` of the node edge1."""
    async with site() as s, trio.open_nursery() as nursery:
        splicer = NameSplicer(requests=s.requests, port=port)

        async def serve(stream: trio.SocketStream) -> None:
            address, host = peer_of(stream)
            await splicer.serve(stream, asker_from_address(address, host))

        yield Entry(s, splicer, await nursery.start(serve_tcp, serve))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def kubelet(authority: Authority, node: str = "edge1") -> AsyncIterator[int]:
    """A service that speaks TLS itself and says everything back, reversed; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = authority.directory / node
    context.load_cert_chain(f"{files}.crt", f"{files}.key")

    async def serve(stream: trio.SocketStream) -> None:
        end = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        while data := await end.receive_some():
            await end.send_all(data[::-1])

    async with target(serve) as port:
        yield port


def alert(description: int) -> bytes:
    return bytes([21, 3, 3, 0, 2, 2, description])


async def test_both_ends_verify_each_other_and_the_gateway_holds_no_key(authority: Authority) -> None:
    async with kubelet(authority) as port, entry(port) as e:
        async with await e.dial_tls(authority) as stream:
            await stream.send_all(b"abc")
            assert await stream.receive_some() == b"cba"
        (line,) = await e.site.lines(1)
        assert (line.method, line.node, line.port, line.verdict) == ("TLS", "edge1", port, "allowed")
        assert line.bytes_to_target > 200
        assert line.bytes_from_target > 200


async def test_a_certificate_of_another_node_is_noticed_by_the_asker(authority: Authority) -> None:
    async with kubelet(authority, "edge2") as port, entry(port) as e, await e.dial_tls(authority) as stream:
        with pytest.raises(trio.BrokenResourceError) as broken:
            await stream.do_handshake()
        assert "CERTIFICATE_VERIFY_FAILED" in str(broken.value.__cause__)


@pytest.mark.parametrize("size", [1, 40, 16384])
async def test_the_target_gets_every_byte_however_they_come(size: int) -> None:
    """Byte by byte and in many records: what arrives is what was sent."""
    whole = records(hello("edge1")[5:], size) + b"and more"
    arrived = trio.Event()
    received = bytearray()

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            received.extend(data)
            if len(received) >= len(whole):
                arrived.set()

    async with target(serve) as port, entry(port) as e, await e.dial() as stream:
        for at in range(0, len(whole), 7):
            await stream.send_all(whole[at : at + 7])
        with trio.fail_after(20):
            await arrived.wait()
        assert received == whole


async def test_what_leads_nowhere_is_told_in_an_alert() -> None:
    async with entry(10250) as e:
        e.site.offline["edge3"] = Offline(NOW - 60)
        assert await e.ask(hello("nowhere")) == alert(112)  # unrecognized_name
        assert await e.ask(hello(None)) == alert(112)
        assert await e.ask(hello("edge3")) == alert(80)  # internal_error
        assert await e.ask(b"GET / HTTP/1.1\r\n\r\n") == alert(10)  # unexpected_message
        e.site.policy = Policy.parse("")
        assert await e.ask(hello("edge1")) == alert(49)  # access_denied
        e.splicer.draining = True
        assert await e.ask(hello("edge1")) == alert(80)
        verdicts = [line.verdict for line in await e.site.lines(6)]
        assert verdicts == [
            "unknown-node",
            "no-server-name",
            "offline-node",
            "not-tls",
            "not-permitted",
            "draining",
        ]
        assert e.site.requests.refused.total() == 6


async def test_a_target_that_is_not_there_is_told_too() -> None:
    async with entry(free_port()) as e:
        assert await e.ask(hello("edge1")) == alert(80)
        (line,) = await e.site.lines(1)
        assert line.verdict == "unreachable"


async def test_an_asker_that_says_nothing_is_let_go(autojump_clock: trio.testing.MockClock) -> None:
    requests = Site().requests
    splicer = NameSplicer(requests=requests, port=10250)
    ours, theirs = trio.testing.memory_stream_pair()
    began = trio.current_time()
    await ours.send_all(hello("edge1")[:100])
    await splicer.serve(theirs, asker_from_address("192.0.2.1:1", "192.0.2.1"))
    assert HELLO_TIMEOUT <= trio.current_time() - began < HELLO_TIMEOUT + 5
    assert requests.refused == {"hello-timeout": 1}


async def test_an_asker_that_leaves_leaves_nothing() -> None:
    async with entry(10250) as e:
        async with await e.dial() as stream:
            await stream.send_all(hello("edge1")[:50])
        async with await e.dial():
            pass
        await e.ask(hello("nowhere"))
        assert [line.verdict for line in await e.site.lines(1)] == ["unknown-node"]
        assert not e.site.requests.live


async def test_a_drain_waits_for_who_has_dialled_and_is_about_to_speak(authority: Authority) -> None:
    async with kubelet(authority) as port, entry(port) as e, await e.dial_tls(authority) as late:
        settled = trio.Event()

        async def settle() -> None:
            await e.splicer.arrivals.settle()
            settled.set()

        await e.ask(hello("nowhere"))  # the entry has accepted both by now
        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle)
            with trio.move_on_after(0.1):
                await settled.wait()
            assert not settled.is_set()
            await late.do_handshake()
            with trio.fail_after(5):
                await settled.wait()


async def test_a_withdrawn_permit_cuts_what_is_under_way(authority: Authority) -> None:
    async with kubelet(authority) as port, entry(port) as e, await e.dial_tls(authority) as stream:
        await stream.send_all(b"abc")
        assert await stream.receive_some() == b"cba"
        e.site.policy = Policy.parse("")
        assert e.site.requests.judge_again() == 1
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        (line,) = await e.site.lines(1)
        assert line.verdict == "withdrawn"
