"""The proxy as real programs use it: curl asks, nginx or a small server answers.

curl, ssh -- HttpProxy -- tunnel -- Dialer -- nginx, sshd
"""

import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from gateway.tunnels import Offline
from tests.daemons import free_port
from tests.gateway.oam.site import NOW, curl, read_head, read_until, site, target

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

CONFIGURATION = """
{user}daemon off; worker_processes 1; pid {dir}/pid; error_log stderr error;
events {{ worker_connections 64; }}
http {{
    access_log {dir}/access;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    client_max_body_size 64m;
    server {{
        listen 127.0.0.1:{port};
        root {dir}/www;
        location = /where {{ return 200 "$host $http_raven_node $http_proxy_connection $request_uri\\n"; }}
        location = /moved {{ return 302 http://edge1:{port}/where; }}
        location = /denied {{ return 403 "by nginx\\n"; }}
        # nginx reads the upload whole, and sends it to itself to be counted
        location = /upload {{ proxy_pass http://127.0.0.1:{port}/count; proxy_http_version 1.1; }}
        location = /count {{ return 200 "$content_length\\n"; }}
    }}
}}
"""


@asynccontextmanager
async def nginx(directory: Path) -> AsyncIterator[int]:
    """nginx on a port of loopback, with /big, 3 MB that are not all alike."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    (directory / "www").mkdir()
    (directory / "www" / "big").write_bytes(bytes(range(251)) * 12_000)
    (directory / "nginx.conf").write_text(
        CONFIGURATION.format(dir=directory, port=port, user="" if os.getuid() else "user root; ")
    )
    async with trio.open_nursery() as nursery:
        command = [NGINX, "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]
        process: trio.Process = await nursery.start(partial(trio.run_process, command, check=False))
        await listening(port)
        yield port
        process.terminate()


async def listening(port: int) -> None:
    """Returns when something listens on `port`."""
    with trio.fail_after(10):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                return
            except OSError:
                await trio.sleep(0.02)


async def test_curl_and_nginx(tmp_path: Path) -> None:
    async with site(allow=["node:*", "127.0.0.1:*"]) as s, nginx(tmp_path) as port:
        proxy, base = ["-x", f"http://{s.address}"], f"http://edge1:{port}"

        # a page, by the node's name; nothing of ours reaches the target
        ran = await curl(*proxy, f"{base}/where?a=1")
        assert ran.out == b"edge1   /where?a=1\n"

        # three ways to a host behind the node
        for arguments, query in (
            (["-H", "Raven-Node: edge1", f"http://127.0.0.1:{port}/where"], ""),
            ([f"http://127.0.0.1.via.edge1:{port}/where"], ""),
            ([f"http://127.0.0.1:{port}/where?nodeName=edge1&a=1"], "?a=1"),
        ):
            assert (await curl(*proxy, *arguments)).out == f"127.0.0.1   /where{query}\n".encode()

        # a file, whole, and a part of it; a head only; a condition
        big = hashlib.sha256((tmp_path / "www" / "big").read_bytes()).digest()
        assert hashlib.sha256((await curl(*proxy, f"{base}/big")).out).digest() == big
        assert (await curl(*proxy, "-r", "250-252", f"{base}/big")).out == b"\xfa\x00\x01"
        ran = await curl(*proxy, "-I", f"{base}/big")
        assert b"Content-Length: 3012000\r\n" in ran.out
        etag = next(line for line in ran.out.split(b"\r\n") if line.startswith(b"ETag: "))[6:].decode()
        ran = await curl(*proxy, "-w", "%{http_code}", "-H", f"If-None-Match: {etag}", f"{base}/big")
        assert ran.out == b"304"

        # several URLs over one connection to the proxy, one of them refused on the way
        ran = await curl(
            *proxy,
            *("-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null"),
            *(f"{base}/where", "-o", "/dev/null", "http://nowhere/", "-o", "/dev/null", f"{base}/big"),
        )
        assert ran.out == b"200 1\n502 0\n200 0\n"

        # what the target refuses is not ours
        ran = await curl(*proxy, "-i", f"{base}/denied")
        assert b"Raven-Error" not in ran.out
        assert ran.out.endswith(b"\r\n\r\nby nginx\n")
        assert (await curl(*proxy, "-L", f"{base}/moved")).out == b"edge1   /where\n"

        # uploads: sized (with Expect), chunked from a pipe
        payload = bytes(2_500_000)
        ran = await curl(*proxy, "--data-binary", "@-", f"{base}/upload", stdin=payload)
        assert ran.out == b"2500000\n"
        ran = await curl(*proxy, "-T", "-", f"{base}/upload", stdin=payload)
        assert ran.out == b"2500000\n"

        # the same through CONNECT
        ran = await curl(*proxy, "-p", f"{base}/where", f"{base}/where")
        assert ran.out == b"edge1   /where\n" * 2
        ran = await curl(
            *proxy, "-p", "--proxy-header", "Raven-Node: edge1", f"http://127.0.0.1:{port}/where"
        )
        assert ran.out == b"127.0.0.1   /where\n"
        assert (await curl(*proxy, "--proxy1.0", s.address, "-p", f"{base}/where")).out == b"edge1   /where\n"
        assert (await curl(*proxy, "-0", f"{base}/where")).out == b"edge1   /where\n"

        # a request in absolute-form over a connection that says it is old
        ran = await curl(*proxy, "-0", "-H", "Connection: keep-alive", f"{base}/big")
        assert hashlib.sha256(ran.out).digest() == big
        assert {line.verdict for line in s.audit} == {"allowed", "unknown-node"}


async def test_what_curl_says_of_refusals() -> None:
    async with site() as s:
        s.offline["edge2"] = Offline(NOW - 7)
        for host, status, words in (
            ("nowhere:80", 502, b"nowhere"),
            ("edge2:80", 503, b"offline since"),
            ("10.1.1.1.via.edge1:80", 403, b"allow list"),
        ):
            ran = await curl("-x", f"http://{s.address}", "-w", "%{http_code}", f"http://{host}/")
            assert words in ran.out
            assert ran.out.endswith(b"%d" % status)
            ran = await curl("-x", f"http://{s.address}", "-p", "-w", "%{http_connect}", f"http://{host}/")
            assert ran.code == 56
            assert ran.out == b"%d" % status


async def test_curl_sees_the_trailers_of_a_chunked_answer() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        assert b"TE: trailers\r\n" in await read_head(stream)
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Sum: 294\r\n\r\n"
        )

    async with site() as s, target(serve) as port:
        ran = await curl(
            *("-x", f"http://{s.address}", "-H", "TE: trailers", "-H", "Connection: TE"),
            *("-D", "-", f"http://edge1:{port}/"),
        )
    assert ran.out.endswith(b"\r\n\r\nabcX-Sum: 294\r\n")


async def test_curl_is_told_of_an_answer_that_is_cut() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with site() as s, target(serve) as port:
        ran = await curl("-x", f"http://{s.address}", f"http://edge1:{port}/")
    assert ran.code in (18, 56)  # a part of the file; the connection was reset
