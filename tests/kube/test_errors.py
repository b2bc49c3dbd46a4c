"""Failures of a connection, through the real stack of libraries, each of which hides a little of why."""

from __future__ import annotations

import json
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from raven.kube.access import Access, read_kubeconfig
from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.objects import Meta
from raven.kube.resources import NODES, Node
from tests.authority import Authority


def _serve_tls(directory: Path, *, host: str = "127.0.0.1") -> ssl.SSLContext:
    authority = Authority(directory / "pki", "api-ca")
    made = authority.sign("api", "kube-apiserver", hosts=[host])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{made}.crt", f"{made}.key")
    return context


async def test_a_certificate_that_is_not_believed_is_its_own_reason(tmp_path: Path) -> None:
    """Through the real stack: httpx itself says nothing of why."""
    context = _serve_tls(tmp_path)

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, ssl.SSLError):
            await trio.SSLStream(stream, context, server_side=True).do_handshake()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        client = Client(Access(server=url, namespace="", context=ssl.create_default_context()))
        with pytest.raises(KubeError, match=r"do not believe: (unable|self-signed)") as caught:
            await client.get(NODES, "n")
        assert (caught.value.reason, client.requests) == ("untrusted", 1)  # once: it will not get better
        await client.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("name", "reason"), [("api.internal", "not-found"), ("", "untrusted")])
async def test_the_name_of_a_kubeconfig_is_the_one_that_counts(
    tmp_path: Path, name: str, reason: str
) -> None:
    """`tls-server-name`: the API server is dialled by an address that its certificate does not have."""
    context = _serve_tls(tmp_path, host="api.internal")

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, ssl.SSLError):
            tls = trio.SSLStream(stream, context, server_side=True)
            await tls.receive_some()
            await tls.send_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k"}}],
            "clusters": [
                {
                    "name": "k",
                    "cluster": {
                        "server": f"https://127.0.0.1:{listener.socket.getsockname()[1]}",
                        "certificate-authority": str(tmp_path / "pki" / "ca.crt"),
                        "tls-server-name": name,
                    },
                }
            ],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        client = Client(read_kubeconfig(tmp_path / "config"))
        with pytest.raises(KubeError) as caught:
            await client.get(NODES, "n")
        assert caught.value.reason == reason
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_a_refused_connection_says_so() -> None:
    client = Client(Access(server="http://127.0.0.1:1", namespace=""), jitter=lambda: 0.0)
    with pytest.raises(KubeError, match=r"127\.0\.0\.1:1 is out of reach: .*refused") as caught:
        await client.create(NODES, Node(metadata=Meta(name="n")))
    assert caught.value.reason == "unreachable"
    await client.aclose()
