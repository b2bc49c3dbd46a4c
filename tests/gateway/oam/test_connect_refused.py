"""Requests that the proxy refuses or cannot carry: each has its status and its sentence."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from gateway.tunnels import Offline
from raven.control.messages import OpenRequest
from raven.errors import StateError
from raven.mux.codes import Priority, RefusalCode
from raven.net.http_pages import HEAD_TIMEOUT
from raven.net.tunnel import StreamRefused
from tests.daemons import free_port
from tests.gateway.oam.site import NOW, OK, Node, answering, get, site, target


async def test_why_there_is_no_answer() -> None:
    gone = free_port()
    async with site(allow=["node:*"]) as s:
        s.offline["edge2"] = Offline(NOW - 42)
        s.offline["edge3"] = Offline(None)
        asked = 0
        table = [
            ("nowhere", 80, 502, "unknown-node", "no node named nowhere has joined"),
            ("edge2", 80, 503, "offline-node", "edge2 is offline since 2023-11-14T22:12:38Z (42 s ago)"),
            ("edge3", 80, 503, "offline-node", "never connected"),
            (
                "edge1",
                gone,
                502,
                "unreachable",
                f"node edge1: cannot connect to node:{gone}: Connection refused",
            ),
            (
                "10.0.0.7.via.edge1",
                80,
                403,
                "not-allowed",
                "node edge1: the node's allow list does not permit",
            ),
        ]
        for host, port, status, reason, words in table:
            for request in (
                f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
                get(f"http://{host}:{port}/", b"Connection: close"),
            ):
                head, _, body = (await s.ask(request)).decode().partition("\r\n\r\n")
                assert head.startswith(f"HTTP/1.1 {status} "), (request, head)
                assert f"\r\nRaven-Error: {reason}\r\n" in head
                assert words in body
                assert body.endswith("\n")
                asked += 1
                await s.lines(asked)
                assert s.audit[-1].verdict == reason
                assert s.audit[-1].status == status
                assert s.audit[-1].detail == body.strip()
        assert s.requests.refused == {
            reason: 4 if reason == "offline-node" else 2 for _, _, _, reason, _ in table
        }


class Scripted(Node):
    """A node whose agent does what a test says."""

    def __init__(self, does: Callable[[], Awaitable[None]]) -> None:
        self._does = does

    async def open_stream(self, request: OpenRequest, priority: Priority) -> trio.abc.HalfCloseableStream:
        await self._does()
        raise AssertionError


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (RefusalCode.FORBIDDEN, 403),
        (RefusalCode.UNREACHABLE, 502),
        (RefusalCode.TIMEOUT, 504),
        (RefusalCode.BUSY, 503),
        (RefusalCode.GOING_AWAY, 503),
        (RefusalCode.BAD_REQUEST, 502),
        (RefusalCode.INTERNAL, 502),
    ],
)
async def test_every_refusal_of_an_agent_has_a_status(code: RefusalCode, status: int) -> None:
    async def refuse() -> None:
        raise StreamRefused(code, "its own sentence")

    async with site(nodes=()) as s:
        s.nodes["edge1"] = Scripted(refuse)
        answer = await s.ask(get("http://edge1/", b"Connection: close"))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.endswith(b"node edge1: its own sentence\n")


async def test_an_agent_that_never_answers(autojump_clock: trio.testing.MockClock) -> None:
    async with site(nodes=()) as s:
        s.nodes["edge1"] = Scripted(trio.sleep_forever)
        answer = await s.ask(get("http://edge1/", b"Connection: close"))
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"Raven-Error: dial-timeout" in answer


async def test_a_tunnel_that_is_lost_while_it_is_asked() -> None:
    async with site() as s:

        async def lose(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            s.nodes["edge1"].tunnel.abort("test", "the cable is out")
            await trio.sleep_forever()

        async with target(lose) as port:
            answer = await s.ask(get(f"http://edge1:{port}/", b"Connection: close"))
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"Raven-Error: tunnel-lost" in answer
            assert b"the cable is out" in answer
            answer = await s.ask(get(f"http://edge1:{port}/", b"Connection: close"))
            assert b"Raven-Error: tunnel-lost" in answer


async def test_a_fault_of_ours_ends_one_connection_only(capsys: pytest.CaptureFixture[str]) -> None:
    async def fault() -> None:
        raise ZeroDivisionError

    async with site() as s, target(OK) as port:
        s.nodes["edge2"] = Scripted(fault)
        assert await s.ask(get("http://edge2/")) == b""
        assert s.requests.broken == {"fault": 1}
        assert (await s.ask(get(f"http://edge1:{port}/", b"Connection: close"))).endswith(b"ok")


async def test_a_registry_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise StateError("registry.sqlite: disk I/O error")

    async with site() as s:
        monkeypatch.setattr(s, "lookup", broken)
        answer = await s.ask(get("http://edge2/", b"Connection: close"))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Raven-Error: registry" in answer
    assert b"sqlite" not in answer  # the asker is not the one who can mend it


async def test_a_refused_request_leaves_the_connection_to_the_next() -> None:
    async with site() as s, target(OK) as port:
        answer = await s.ask(get("http://nowhere/") + get(f"http://edge1:{port}/", b"Connection: close"))
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert answer.endswith(b"\r\n\r\nok")


async def test_a_refused_request_with_a_body_ends_the_connection() -> None:
    async with site() as s:
        post = b"POST http://nowhere/ HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n" + b"GET" * 100
        answer = await s.ask(post)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    "smuggled",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        b"Content-Length : 4\r\n\r\nabcd",
        b"X: a\r\n folded\r\n\r\n",
        b"X: a\nContent-Length: 4\r\n\r\nabcd",
        b"Transfer-Encoding: chunked\r\n\r\n5;\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_smuggling(smuggled: bytes) -> None:
    seen: list[bytes] = []
    async with site() as s, target(answering(b"", seen)) as port:
        head = f"POST http://edge1:{port}/ HTTP/1.1\r\nHost: x\r\n".encode()
        answer = await s.ask(head + smuggled + get(f"http://edge1:{port}/admin"))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Connection: close" in answer
        assert answer.count(b"HTTP/1.1 ") == 1
    assert not any(b"admin" in head for head in seen)


async def test_a_head_that_comes_too_slowly(autojump_clock: trio.testing.MockClock) -> None:
    async with site() as s, await s.dial() as stream:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                while True:
                    await stream.send_all(b"G")
                    await trio.sleep(1)

            nursery.start_soon(trickle)
            head = await stream.receive_some()
            nursery.cancel_scope.cancel()
        assert head.startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began == HEAD_TIMEOUT
        assert s.requests.refused == {"head-timeout": 1}
