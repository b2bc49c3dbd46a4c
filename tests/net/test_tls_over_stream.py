"""TLS over a stream that is no socket: both ends verify, both directions end for themselves."""

import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from raven.net.tls import kubelet_context
from raven.net.tls_over_stream import TLSOverStream
from tests.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki", "test-ca")
    made.sign("edge1", "edge1", hosts=["edge1"])
    made.sign("client", "client")
    return made


def ends(
    authority: Authority, name: str = "edge1"
) -> tuple[TLSOverStream, trio.SSLStream[trio.abc.HalfCloseableStream]]:
    ours, theirs = trio.testing.memory_stream_pair()
    files = authority.directory
    context = kubelet_context(files / "client.crt", files / "client.key", authority.certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files / "edge1.crt", files / "edge1.key")
    server.load_verify_locations(authority.certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    return (
        TLSOverStream(ours, context, server_hostname=name),
        trio.SSLStream(theirs, server, server_side=True, https_compatible=True),
    )


async def test_bytes_go_both_ways_and_answers_come_after_our_end(authority: Authority) -> None:
    client, server = ends(authority)

    async def answer() -> None:
        assert await server.receive_some() == b"question"
        await server.send_all(b"answer")
        with suppress(trio.BrokenResourceError):
            assert await server.receive_some() == b""  # an end, whether or not with a close_notify

    with trio.fail_after(5):
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await client.handshake()
            await client.wait_send_all_might_not_block()
            await client.send_all(b"question")
            await client.send_eof()
            assert await client.receive_some() == b"answer"


async def test_another_name_is_not_believed(authority: Authority) -> None:
    client, server = ends(authority, name="edge2")

    async def serve() -> None:
        with suppress(trio.BrokenResourceError):
            assert await server.receive_some() == b""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(trio.BrokenResourceError) as broken:
            await client.handshake()
        assert isinstance(broken.value.__cause__, ssl.SSLCertVerificationError)
        await trio.aclose_forcefully(client)
