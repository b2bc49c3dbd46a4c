"""The terminating entry: TLS on both sides of the gateway, verbs from paths, and the policy between."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import h11
import pytest
import trio

from gateway.oam.kubelet import KubeletProxy
from raven.net.tcp import peer_of
from raven.net.tls import kubelet_context
from raven.oam.asker import asker_from_address
from raven.oam.permits import Policy
from tests.authority import Authority
from tests.gateway.oam.site import Site, read_head, serve_tcp, site, target

LOGS_ONLY = """
[[permit]]
who = ["cert:apiserver"]
targets = ["node:*"]
verbs = ["logs", "stats"]
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls") / "pki", "test-ca")
    for node in ("edge1", "edge2"):
        made.sign(node, f"system:node:{node}", hosts=[node])
    made.sign("gateway", "raven-gateway", groups=["system:masters"])
    return made


@dataclass
class Entry:
    """The proxy behind its TLS, which is `Entries`' business: here an asker is whoever dials."""

    site: Site
    port: int

    async def ask(self, head: str) -> tuple[int, bytes]:
        """Status and body, or the first bytes after an upgrade."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            body = b""
            status = 0
            with trio.fail_after(20):
                while True:
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        connection.receive_data(await stream.receive_some())
                    elif isinstance(event, h11.Response):
                        status = event.status_code
                    elif isinstance(event, h11.Data):
                        body += event.data
                    elif isinstance(event, h11.EndOfMessage):
                        return status, body


@asynccontextmanager
async def entry(authority: Authority, port: int) -> AsyncIterator[Entry]:
    shown = authority.directory / "gateway"
    context = kubelet_context(shown.with_suffix(".crt"), shown.with_suffix(".key"), authority.certificate)
    async with site() as s, trio.open_nursery() as nursery:
        proxy = KubeletProxy(requests=s.requests, port=port, context=lambda: context)

        async def serve(stream: trio.SocketStream) -> None:
            address, host = peer_of(stream)
            await proxy.serve(stream, replace(asker_from_address(address, host), names=("cert:apiserver",)))

        yield Entry(s, await nursery.start(serve_tcp, serve))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def kubelet(authority: Authority, answer: bytes, node: str = "edge1") -> AsyncIterator[int]:
    """Answers one request over TLS, and only to a client with a certificate; then says everything back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.directory / f"{node}.crt", authority.directory / f"{node}.key")
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(stream: trio.SocketStream) -> None:
        end = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        head = await read_head(end)
        subject = dict(pair[0] for pair in end.getpeercert()["subject"])
        who = b"X-Seen: " + subject["commonName"].encode() + b" " + head.split(b" ")[1]
        await end.send_all(answer.replace(b"X-Seen", who))
        while data := await end.receive_some():
            await end.send_all(data)

    async with target(serve) as port:
        yield port


OK = b"HTTP/1.1 200 OK\r\nX-Seen\r\nContent-Length: 2\r\n\r\nok"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Seen\r\n\r\n"


def get(path: str, host: str = "edge1:10250") -> str:
    return f"GET {path} HTTP/1.1\nHost: {host}"


async def test_a_permitted_verb_reaches_the_kubelet_with_the_gateways_certificate(
    authority: Authority,
) -> None:
    async with kubelet(authority, OK) as port, entry(authority, port) as e:
        e.site.policy = Policy.parse(LOGS_ONLY)
        assert await e.ask(get("/containerLogs/default/web/main?tailLines=1")) == (200, b"ok")
        (line,) = await e.site.lines(1)
        assert (line.node, line.port, line.verdict, line.detail) == (
            "edge1",
            port,
            "allowed",
            "logs default/web/main",
        )


@pytest.mark.parametrize(
    "path", ["/exec/default/web/main?command=id", "/run/default/web/main", "/configz", "/"]
)
async def test_other_verbs_are_refused_and_named(authority: Authority, path: str) -> None:
    async with kubelet(authority, OK) as port, entry(authority, port) as e:
        e.site.policy = Policy.parse(LOGS_ONLY)
        status, body = await e.ask(get(path))
        assert status == 403
        assert b"the gateway's policy does not permit " in body
        (line,) = await e.site.lines(1)
        assert line.verdict == "not-permitted"


async def test_a_path_with_two_meanings_and_a_missing_node_are_refused(authority: Authority) -> None:
    async with entry(authority, 10250) as e:
        for head in (
            get("/containerLogs/../exec/default/web/main"),
            "GET /stats HTTP/1.1\nHost: edge1\nHost: edge2",
            "CONNECT edge1:10250 HTTP/1.1\nHost: edge1",
            "GET http://edge1:10250/stats HTTP/1.1\nHost: edge1",
        ):
            assert (await e.ask(head))[0] == 400, head
        assert (await e.ask(get("/stats", "nowhere:10250")))[0] == 502


@pytest.mark.parametrize("upgrade", ["SPDY/3.1", "websocket"])
async def test_an_upgrade_passes_once_it_is_permitted(authority: Authority, upgrade: str) -> None:
    answer = UPGRADED.replace(b"SPDY/3.1", upgrade.encode())
    async with kubelet(authority, answer) as port, entry(authority, port) as e:
        stream = await trio.open_tcp_stream("127.0.0.1", e.port)
        async with stream:
            head = f"POST /exec/default/web/main?command=sh HTTP/1.1\r\nHost: edge1:{port}\r\n"
            head += f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\nContent-Length: 0\r\n\r\n"
            await stream.send_all(head.encode())
            answered = await read_head(stream)
            assert answered.startswith(b"HTTP/1.1 101 ")
            await stream.send_all(b"raw bytes\0")
            with trio.fail_after(10):
                assert await stream.receive_some() == b"raw bytes\0"
        (line,) = await e.site.lines(1)
        assert (line.status, line.detail) == (101, "exec default/web/main")


async def test_the_kubelets_certificate_is_verified_always(authority: Authority) -> None:
    async with kubelet(authority, OK, node="edge2") as port, entry(authority, port) as e:
        status, body = await e.ask(get("/stats/summary"))
        assert status == 502
        assert b"kubelet of node edge1" in body
        (line,) = await e.site.lines(1)
        assert line.verdict == "bad-kubelet-tls"


async def test_a_withdrawn_verb_ends_what_is_under_way(authority: Authority) -> None:
    async with kubelet(authority, UPGRADED) as port, entry(authority, port) as e:
        stream = await trio.open_tcp_stream("127.0.0.1", e.port)
        async with stream:
            head = "POST /exec/default/web/main HTTP/1.1\r\nHost: edge1\r\nContent-Length: 0\r\n"
            await stream.send_all(head.encode() + b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
            await read_head(stream)
            e.site.policy = Policy.parse(LOGS_ONLY)
            assert e.site.requests.judge_again() == 1
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
