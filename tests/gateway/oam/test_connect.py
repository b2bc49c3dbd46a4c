"""The proxy end to end in one process: what askers get, what targets see, and what the audit says."""

import json
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from gateway.oam.connect import HttpProxy
from gateway.tunnels import Offline
from tests.gateway.oam.site import (
    NOW,
    OK,
    Site,
    answering,
    connect_node,
    get,
    read_all,
    read_head,
    read_until,
    site,
    target,
)

Serve = Callable[[trio.SocketStream], Awaitable[None]]


# CONNECT ------------------------------------------------------------------------------------------


async def test_a_node_is_reached_by_its_address_unless_two_have_it() -> None:
    async with site() as s, target(OK) as port:
        s.addresses["10.0.0.7"] = ["edge1"]
        answer = await s.ask(get(f"http://10.0.0.7:{port}/", b"Connection: close"))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        (line,) = await s.lines(1)
        assert (line.node, line.host, line.port) == ("edge1", "", port)
        s.addresses["10.0.0.7"].append("edge2")
        answer = await s.ask(b"CONNECT 10.0.0.7:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"Raven-Error: ambiguous-node" in answer


async def test_connect_joins_both_ends_and_passes_half_closes() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        heard = await read_all(stream)  # until the asker's EOF
        await stream.send_all(heard[::-1])

    async with site() as s, target(serve) as port, await s.dial() as stream:
        await stream.send_all(f"CONNECT edge1:{port} HTTP/1.1\r\nHost: edge1\r\n\r\nhas".encode())  # hasty
        assert await read_until(stream, b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
        await stream.send_all(b"ty")
        await stream.send_eof()
        assert await read_all(stream) == b"ytsah"
        (line,) = await s.lines(1)
    assert (line.method, line.node, line.host, line.port) == ("CONNECT", "edge1", "", port)
    assert (line.verdict, line.status, line.detail) == ("allowed", 200, "")
    assert (line.bytes_to_target, line.bytes_from_target, line.time) == (5, 5, NOW)
    assert line.asker.startswith("anonymous at 127.0.0.1:")
    assert line.id
    assert line.duration > 0


async def test_connect_to_a_host_behind_a_node() -> None:
    async with site(allow=["127.0.0.1:*"]) as s, target(OK) as port:
        for authority, header in (
            (f"127.0.0.1:{port}", "Raven-Node: edge1\r\n"),
            (f"127.0.0.1.via.edge1:{port}", ""),
        ):
            async with await s.dial() as stream:
                await stream.send_all(f"CONNECT {authority} HTTP/1.0\r\n{header}\r\n".encode())
                assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                await stream.send_all(get("/"))
                assert (await read_all(stream)).endswith(b"ok")
        lines = await s.lines(2)
    assert {(line.node, line.host) for line in lines} == {("edge1", "127.0.0.1")}


async def test_large_transfers_are_whole() -> None:
    size = 8 << 20

    async def serve(stream: trio.SocketStream) -> None:
        for _ in range(size >> 16):
            await stream.send_all(bytes(range(256)) * 256)

    async with site() as s, target(serve) as port, await s.dial() as stream:
        await stream.send_all(f"CONNECT edge1:{port} HTTP/1.1\r\nHost: edge1\r\n\r\n".encode())
        _, _, first = (await read_head(stream)).partition(b"\r\n\r\n")
        received = first + await read_all(stream)
    assert received == bytes(range(256)) * (size >> 8)


# The gateway's own pages --------------------------------------------------------------------------


async def test_own_pages() -> None:
    async with site(nodes=("edge1", "shop.north")) as s:
        answer = await s.ask(get("/sd?port=9100&port=9445") + get("/healthz", b"Connection: close"))
        head, _, rest = answer.partition(b"\r\n\r\n")
        found, _, health = rest.partition(b"HTTP/1.1 ")
        assert b"\r\nContent-Type: application/json\r\n" in head
        groups = json.loads(found)
        assert [group["targets"] for group in groups] == [
            ["edge1:9100", "edge1:9445"],
            ["shop.north:9100", "shop.north:9445"],
        ]
        assert groups[0]["labels"]["__meta_raven_pod_cidrs"] == "10.1.0.0/24"
        assert health.startswith(b"200 OK\r\n")
        assert health.endswith(b"\r\n\r\nok\n")
        assert (await s.ask(get("/", b"Connection: close"))).startswith(b"HTTP/1.1 404 ")
        assert (await s.ask(b"POST /sd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(
            b"HTTP/1.1 405 "
        )


async def test_a_node_is_asked_as_if_its_name_had_led_to_it() -> None:
    """As clients do that resolve nodes' names by a hosts file, and know of no proxy."""
    seen: list[bytes] = []
    async with (
        site(nodes=("edge1", "edge2", "gw")) as s,
        target(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", seen)) as port,
    ):
        s.proxy = HttpProxy(requests=s.requests, name="gw")
        for host, query in ((b"edge1", b""), (b"nobody", b""), (b"gw", b""), (b"edge1", b"?nodeName=edge2")):
            line = b"GET /sd" + query + b" HTTP/1.1\r\n"
            await s.ask(
                line + b"Host: %s:%d\r\nAuthorization: Bearer x\r\nConnection: close\r\n\r\n" % (host, port)
            )
        assert [head.partition(b"\r\n")[0] for head in seen] == [b"GET /sd HTTP/1.1"] * 2
        assert all(b"\r\nAuthorization: Bearer x\r\n" in head for head in seen), "it is the node's"
        assert [line.node for line in s.audit if line.verdict == "allowed"] == ["edge1", "edge2"]


# Draining -----------------------------------------------------------------------------------------


async def test_draining_ends_what_is_idle_and_refuses_what_is_new() -> None:
    release = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await release.wait()
        await stream.send_all(b"ok")

    async with site() as s, target(serve) as port, await s.dial() as idle, await s.dial() as busy:
        await idle.send_all(get("/healthz"))
        await read_until(idle, b"ok\n")
        await busy.send_all(get(f"http://edge1:{port}/"))
        await read_until(busy, b"\r\n\r\n")
        s.proxy.drain()
        assert await read_all(idle) == b""
        refused = await s.ask(get(f"http://edge1:{port}/"))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Raven-Error: draining" in refused
        assert (await s.ask(get("/healthz"))).startswith(b"HTTP/1.1 503 ")
        release.set()
        assert await read_all(busy) == b"ok"
        await busy.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert s.proxy.connections == 0


async def test_a_node_that_comes_back_is_there_at_once() -> None:
    async with site(nodes=()) as s, target(OK) as port, trio.open_nursery() as nursery:
        s.offline["edge1"] = Offline(NOW)
        assert (await s.ask(get(f"http://edge1:{port}/", b"Connection: close"))).startswith(b"HTTP/1.1 503")
        s.nodes["edge1"] = await connect_node(nursery, "edge1", ["node:*"])
        assert (await s.ask(get(f"http://edge1:{port}/", b"Connection: close"))).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


async def test_many_askers_at_once() -> None:
    async with site() as s, target(OK) as port:
        answers: list[bytes] = []

        async def ask(site: Site) -> None:
            answers.append(await site.ask(get(f"http://edge1:{port}/", b"Connection: close")))

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(ask, s)
        assert [answer[-2:] for answer in answers] == [b"ok"] * 60
        await s.lines(60)
        assert len({line.id for line in s.audit}) == 60
