"""TLS on real sockets: trio's conformance check, and what OpenSSL does behind our back."""

import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from raven.net.tls_stream import (
    NOTSENT_LOWAT,
    RECORD_MAX,
    HandshakeFailed,
    TLSStream,
    client_handshake,
    server_handshake,
)
from tests.net.loopback import contexts, tcp_pair, tcp_streams, tls_pair


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[TLSStream, TLSStream]]:
    client, server = await tls_pair()
    async with client, server:
        yield client, server


async def fill(stream: trio.abc.SendStream) -> None:
    """Sends until no more fits."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(32 << 20))
            await trio.testing.wait_all_tasks_blocked(0.01)
            scope.cancel()


async def test_conformance() -> None:
    # No clogged maker: after a cancelled send a TLS stream can only be closed, as trio's own.
    await trio.testing.check_two_way_stream(tls_pair, None)


async def test_large_writes_come_whole_and_in_order() -> None:
    data = bytes(range(256)) * 40_000  # 10 MB, far more than the socket holds
    async with pair() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, data)
        got = bytearray()
        while len(got) < len(data):
            got += await server.receive_borrowed(1 << 20)
        assert got == data


async def test_both_directions_at_once() -> None:
    data = bytes(range(256)) * 20_000

    async def receive(stream: TLSStream) -> None:
        got = bytearray()
        while len(got) < len(data):
            got += await stream.receive_some(100_000)
        assert got == data

    async with pair() as (client, server), trio.open_nursery() as nursery:
        for stream in (client, server):
            nursery.start_soon(stream.send_all, data)
            nursery.start_soon(receive, stream)


async def test_several_records_are_lent_at_once() -> None:
    async with pair() as (client, server):
        await client.send_all(bytes(3 * RECORD_MAX) + b"end")
        await trio.lowlevel.wait_readable(server.socket)
        view = await server.receive_borrowed(1 << 20)
        assert bytes(view) == bytes(3 * RECORD_MAX) + b"end"
        await client.send_all(b"abcdef")
        assert bytes(await server.receive_borrowed(4)) == b"abcd"
        assert await server.receive_some(100) == b"ef"


async def test_an_eager_reader_takes_short_records_at_once_too() -> None:
    """As Go writes them: 16 KiB, the rest of that, a header."""
    records = [bytes(RECORD_MAX), bytes(22), b"header", bytes(RECORD_MAX), bytes(22)]
    async with pair() as (client, server):
        for record in records:
            await client.send_all(record)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert bytes(await server.receive_borrowed(1 << 20, eager=True)) == b"".join(records)
        await client.send_all(b"x")  # a keystroke: nobody asks whether another one is there
        await client.send_all(b"y")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert bytes(await server.receive_borrowed(1 << 20, eager=True)) == b"x"
        assert bytes(await server.receive_borrowed(1 << 20, eager=True)) == b"y"


async def test_close_notify_is_an_end_and_a_cut_is_not() -> None:
    async with pair() as (client, server):
        await client.send_all(b"last")
        await client.aclose()
        assert await server.receive_some() == b"last"
        assert await server.receive_some() == b""
        assert len(await server.receive_borrowed(100)) == 0
    async with pair() as (client, server):
        client.socket.shutdown(socket.SHUT_RDWR)  # what anybody on the path could do
        with pytest.raises(trio.BrokenResourceError) as raised:
            await server.receive_some()
        cause = raised.value.__cause__
    assert isinstance(cause, ssl.SSLError)
    assert isinstance(cause, ssl.SSLEOFError) or cause.reason == "UNEXPECTED_EOF_WHILE_READING"


@pytest.mark.parametrize("borrowed", [True, False])
async def test_an_alert_behind_a_whole_record_is_a_cut_and_no_end(borrowed: bool) -> None:
    """What a byte that was changed on the way leads to: the other end's alert, right behind its data."""
    left, right = await tls_pair()
    async with left, right:
        await right.send_all(bytes(RECORD_MAX))
        os.write(left.socket.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError):
            await right.receive_some()
        await trio.testing.wait_all_tasks_blocked(0.05)  # until record and alert have both arrived
        got = len(await left.receive_borrowed(256 * 1024))
        while got < RECORD_MAX:
            got += len(await left.receive_borrowed(256 * 1024))
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await (left.receive_borrowed(256 * 1024) if borrowed else left.receive_some())


async def test_close_is_bounded_when_the_peer_reads_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as (client, _):
        await fill(client)
        begin = trio.current_time()
        await client.aclose()
        assert trio.current_time() - begin < 2.0


async def test_half_a_record_cannot_be_followed() -> None:
    async with pair() as (client, server):
        await fill(client)
        with pytest.raises(trio.BrokenResourceError, match="middle of a record"):
            await client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await client.wait_send_all_might_not_block()
        await server.send_all(b"the other way still works")
        assert await client.receive_some() == b"the other way still works"


async def test_closing_wakes_who_waits() -> None:
    async with pair() as (client, _), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_borrowed(100)

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.send_all(bytes(32 << 20))

        nursery.start_soon(receive)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.aclose()


async def test_two_tasks_in_one_direction() -> None:
    async with pair() as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.receive_borrowed(100)
        nursery.cancel_scope.cancel()


async def test_session_tickets_do_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come after the handshake and wake a reader for whom there is nothing."""
    monkeypatch.setattr(contexts()[1], "num_tickets", 2)
    async with pair() as (client, server), trio.open_nursery() as nursery:
        got: list[bytes | bytearray] = []

        async def receive() -> None:
            got.append(await client.receive_some())

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send_all(b"ping")
        assert await server.receive_some() == b"ping"
        await server.send_all(b"pong")
    assert got == [b"pong"]


async def test_sockets_are_prepared() -> None:
    async with pair() as (client, server):
        for end in (client, server):
            assert end.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert end.socket.getsockopt(socket.IPPROTO_TCP, 25) == NOTSENT_LOWAT
            assert not end.socket.getblocking()
            assert end.getpeercert()["subjectAltName"]
            assert end.getpeercert(binary_form=True)


async def test_a_peer_that_says_nothing(autojump_clock: trio.testing.MockClock) -> None:
    left, right = tcp_pair()
    with left:
        with pytest.raises(HandshakeFailed) as raised:
            await server_handshake(right, contexts()[1], timeout=3.0)
        assert raised.value.reason == "tls-timeout"
        assert right.fileno() == -1
        assert trio.current_time() == pytest.approx(3.0, abs=0.5)


@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"", "tls-eof"), (b"GET / HTTP/1.1\r\n\r\n", "tls"), (b"\x16\x03\x01\x02", "tls-eof")],
)
async def test_a_peer_that_does_not_speak_tls(said: bytes, reason: str) -> None:
    left, right = tcp_pair()
    with left:
        left.sendall(said)
        left.shutdown(socket.SHUT_WR)
        with pytest.raises(HandshakeFailed) as raised:
            await server_handshake(right, contexts()[1])
        assert raised.value.reason == reason


async def test_a_certificate_that_does_not_verify() -> None:
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    strict.check_hostname = False
    left, right = tcp_streams()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            with pytest.raises(HandshakeFailed):
                await server_handshake(right, contexts()[1])

        nursery.start_soon(serve)
        with pytest.raises(HandshakeFailed) as raised:
            await client_handshake(left, strict)
        assert raised.value.reason == "tls-certificate"


async def test_a_cancelled_handshake_closes_its_socket() -> None:
    left, right = tcp_pair()
    with left, trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server_handshake, right, contexts()[1])
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert right.fileno() == -1


async def test_sending_without_waiting() -> None:
    async with pair() as (client, server):
        assert client.send_nowait(b"at once")
        assert await server.receive_some() == b"at once"
        sent = 0
        piece = bytes(range(256)) * 256
        while client.send_nowait(piece):
            sent += len(piece)
        with pytest.raises(trio.BrokenResourceError):
            client.send_nowait(b"something else")  # OpenSSL wants the same bytes again
        got = bytearray()

        async def read() -> None:
            while len(got) < sent + len(piece):
                got.extend(await server.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await client.send_all(piece)
        assert bytes(got) == piece * (sent // len(piece) + 1)
        assert client.send_nowait(b"and on")


async def test_half_a_record_begun_without_waiting_is_no_end_at_the_close() -> None:
    async with pair() as (client, server):
        while client.send_nowait(bytes(1 << 16)):
            pass
        await client.aclose()

        async def drain() -> None:
            while await server.receive_some():
                pass

        with pytest.raises(trio.BrokenResourceError):
            await drain()
