"""The device's socket, over a real one in a directory of the test's own."""

import asyncio
import errno
import gc
import socket
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import pytest
import uvloop

from raven.dataplane.uapi import SocketError, UapiServer
from raven.keys import PublicKey
from raven.wg import uapi, uapi_answers
from raven.wg.configuration import DeviceChange, DeviceState, Status, UapiError


class Recorder:
    """Remembers what it is told; refuses port 1."""

    def __init__(self) -> None:
        self.changes: list[DeviceChange] = []
        self.configures = False

    def state(self) -> DeviceState:
        return DeviceState(listen_port=51820, counters={"a_reason": 3})

    def status(self) -> Status:
        return Status(mtu=1420)

    def configuring(self, change: DeviceChange) -> Generator[None, None, None]:
        assert not self.configures, "one at a time"
        self.configures = True
        try:
            for _ in change.peers:
                yield
            if change.listen_port == 1:
                raise UapiError(errno.EADDRINUSE, "port 1 is taken")
            self.changes.append(change)
        finally:
            self.configures = False


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def serve(directory: Path, talk: Talk) -> Recorder:
    """Runs a server while `talk` talks to it on one connection."""
    recorder = Recorder()

    async def main() -> None:
        server = UapiServer("wgtest", recorder, directory=directory)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(server.path)
        try:
            async with asyncio.timeout(10):
                await talk(reader, writer)
        finally:
            # uvloop does not close while a connection is open.
            writer.close()
            await writer.wait_closed()
            server.close()
        assert not server.path.exists()

    uvloop.run(main())
    return recorder


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: str) -> str:
    writer.write(request.encode())
    return (await reader.readuntil(b"\n\n")).decode()


def test_get_set_and_counters_on_one_connection(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await ask(reader, writer, "get=1\n\n") == "listen_port=51820\nerrno=0\n\n"
        assert await ask(reader, writer, "set=1\nlisten_port=7\nfwmark=0\n\n") == "errno=0\n\n"
        assert await ask(reader, writer, uapi.COUNTERS + "\n\n") == "a_reason=3\nerrno=0\n\n"

    (change,) = serve(tmp_path, talk).changes
    assert (change.listen_port, change.fwmark) == (7, 0)


def test_a_request_that_comes_byte_by_byte(tmp_path: Path) -> None:
    key = PublicKey(bytes(range(32)))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for letter in f"set=1\npublic_key={key.hex()}\nremove=true\n\n":
            writer.write(letter.encode())
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"

    ((change,),) = [change.peers for change in serve(tmp_path, talk).changes]
    assert (change.public_key, change.remove) == (key, True)


def test_several_requests_at_once(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"set=1\nlisten_port=2\n\nset=1\nlisten_port=3\n\nget=")
        assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"
        assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"
        assert await ask(reader, writer, "1\n\n") == "listen_port=51820\nerrno=0\n\n"

    assert [change.listen_port for change in serve(tmp_path, talk).changes] == [2, 3]


@pytest.mark.parametrize(
    ("request_text", "number"),
    [
        ("hello\n\n", errno.EPROTO),
        ("\n\n", errno.EPROTO),
        ("set=1\nlisten_port=x\n\n", errno.EINVAL),
        ("set=1\nunknown=1\n\n", errno.EINVAL),
        ("get=1\nlisten_port=1\n\n", errno.EINVAL),
        ("set=1\nlisten_port=1\n\n", errno.EADDRINUSE),
        (f"set=1\npublic_key={'11' * 32}\nendpoint=[fe80::1%no such link]:1\n\n", errno.EINVAL),
        (f"set=1\npublic_key={'11' * 32}\nendpoint=[fe80::1%\0]:1\n\n", errno.EINVAL),
        ("set=1\n\x00\x01\x02\n\n", errno.EPROTO),
    ],
)
def test_what_cannot_be_done_is_answered_with_an_errno(
    tmp_path: Path, request_text: str, number: int
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with pytest.raises(UapiError) as raised:
            uapi_answers.parse_errno_untrusted(await ask(reader, writer, request_text))
        assert raised.value.errno == number
        assert await ask(reader, writer, "get=1\n\n") == "listen_port=51820\nerrno=0\n\n"

    assert serve(tmp_path, talk).changes == []


def test_a_request_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "REQUEST_MAX", 10000)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"set=1\n" + b"x" * 20000)
        with pytest.raises(UapiError) as raised:
            uapi_answers.parse_errno_untrusted((await reader.readuntil(b"\n\n")).decode())
        assert raised.value.errno == errno.EMSGSIZE
        assert await reader.read() == b""

    assert serve(tmp_path, talk).changes == []


def test_only_its_owner_may_connect(tmp_path: Path) -> None:
    server = UapiServer("wgtest", Recorder(), directory=tmp_path)
    assert server.path.stat().st_mode & 0o777 == 0o600
    server.close()


def test_whoever_sees_the_socket_can_connect(tmp_path: Path) -> None:
    # `wg show` removes a socket that refuses it, and with it would go a device that is just starting.
    server = UapiServer("wgtest", Recorder(), directory=tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(server.path))
    assert [path.name for path in tmp_path.iterdir()] == ["wgtest.sock"]
    server.close()


def test_a_dead_process_leaves_a_socket_that_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "wgtest.sock"))
    server = UapiServer("wgtest", Recorder(), directory=tmp_path)
    assert server.exists()
    server.close()


def test_a_live_process_keeps_its_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as live:
        live.bind(str(tmp_path / "wgtest.sock"))
        live.listen()
        with pytest.raises(SocketError, match="another process answers"):
            UapiServer("wgtest", Recorder(), directory=tmp_path)
        assert (tmp_path / "wgtest.sock").exists()


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SocketError, match=r"file/wgtest\.sock: "):
        UapiServer("wgtest", Recorder(), directory=tmp_path / "file")


def test_another_ones_socket_is_left_alone(tmp_path: Path) -> None:
    server = UapiServer("wgtest", Recorder(), directory=tmp_path)
    assert server.exists()
    server.path.unlink()
    assert not server.exists()
    server.path.touch()
    assert not server.exists()
    server.close()
    assert server.path.exists()


def test_clients_beyond_the_bound_are_turned_away(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        more = [await asyncio.open_unix_connection(tmp_path / "wgtest.sock") for _ in range(32)]
        assert await more[-1][0].read() == b""
        assert await ask(*more[0], "get=1\n\n") == "listen_port=51820\nerrno=0\n\n"
        for _, one in more:
            one.close()

    serve(tmp_path, talk)


def test_a_long_change_lets_the_loop_turn(tmp_path: Path) -> None:
    """What a second client asks meanwhile is answered before the first one's 20,000 networks are read."""
    networks = "".join(f"allowed_ip=10.{i >> 8}.{i & 255}.0/24\n" for i in range(20_000))
    order = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        second_reader, second_writer = await asyncio.open_unix_connection(tmp_path / "wgtest.sock")
        writer.write(f"set=1\npublic_key={bytes(range(32)).hex()}\n{networks}\nset=1\nfwmark=7\n\n".encode())
        await writer.drain()

        async def first() -> None:
            assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"
            order.append("first")
            assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"

        async def second() -> None:
            second_writer.write(b"get=1\n\n")
            assert (await second_reader.readuntil(b"\n\n")).endswith(b"errno=0\n\n")
            order.append("second")

        try:
            await asyncio.gather(first(), second())
        finally:
            second_writer.close()
            await second_writer.wait_closed()

    gc.collect()
    before = len(gc.get_objects())
    try:
        recorder = serve(tmp_path, talk)
        assert order == ["second", "first"]
        # Each network is four objects to the collector: it is not to walk them while packets wait.
        assert len(gc.get_objects()) < before + 20_000
    finally:
        gc.unfreeze()
    assert [len(peer.allowed_ips) for peer in recorder.changes[0].peers] == [20_000]
    assert recorder.changes[1].fwmark == 7


def test_one_client_s_change_waits_for_another_s(tmp_path: Path) -> None:
    """Three peers are three steps: the second client's change comes in between, and `Recorder` forbids it."""
    peers = "".join(f"public_key={bytes([i + 1]).hex() * 32}\n" for i in range(3))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        second_reader, second_writer = await asyncio.open_unix_connection(tmp_path / "wgtest.sock")
        try:
            writer.write(f"set=1\nfwmark=1\n{peers}\n".encode())
            second_writer.write(f"set=1\nlisten_port=1\n{peers}\nset=1\nfwmark=2\n{peers}\n".encode())
            assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"
            assert await second_reader.readuntil(b"\n\n") == b"errno=-98\n\n"
            assert await second_reader.readuntil(b"\n\n") == b"errno=0\n\n"
        finally:
            second_writer.close()
            await second_writer.wait_closed()

    recorder = serve(tmp_path, talk)
    assert sorted(change.fwmark or 0 for change in recorder.changes) == [1, 2]
