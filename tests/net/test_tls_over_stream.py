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
        trio.SSLStream(theirs, server, server_side=True),
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


async def test_all_records_that_have_come_are_read_at_once(authority: Authority) -> None:
    client, server = ends(authority)
    records = [b"a" * 16384, b"b" * 22, b"c" * 26, b"d" * 16384]

    with trio.fail_after(5):
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            await client.handshake()
            for record in records:
                await server.send_all(record)
            await server.aclose()
            everything = b"".join(records)
            assert await client.receive_some(20_000) == everything[:20_000]
            assert await client.receive_some() == everything[20_000:]
            assert await client.receive_some() == b""
            assert await client.receive_some() == b""


async def test_a_cut_is_no_end_and_comes_after_what_came_before_it(authority: Authority) -> None:
    client, server = ends(authority)
    with trio.fail_after(5):
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            await client.handshake()
            await server.send_all(b"half of ")
            await server.transport_stream.send_eof()
            assert await client.receive_some() == b"half of "
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()


async def test_what_was_changed_on_the_way_stays_an_error(authority: Authority) -> None:
    client, server = ends(authority)
    with trio.fail_after(5):
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            await client.handshake()
            await server.send_all(b"good")
            await server.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
            assert await client.receive_some() == b"good"
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()


async def test_after_half_a_record_nothing_more_is_sent(authority: Authority) -> None:
    client, server = ends(authority)
    ours = client.transport
    assert isinstance(ours, trio.StapledStream)
    below = ours.send_stream
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            await client.handshake()
        assert isinstance(below, trio.testing.MemorySendStream)
        below.send_all_hook = trio.sleep_forever
        with trio.move_on_after(0.05):
            await client.send_all(b"may arrive in part")
        below.send_all_hook = refuse
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"out of step")
        await client.aclose()  # says no close_notify, which nobody could read


async def refuse() -> None:
    raise AssertionError("nothing is sent any more")


async def test_the_end_is_said(authority: Authority) -> None:
    client, server = ends(authority)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            await client.handshake()
        await client.send_all(b"x" * 300_000)
        await client.aclose()
        received = b""
        while data := await server.receive_some():
            received += data
        assert received == b"x" * 300_000


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
