"""Question and answer over a daemon's Unix socket, and those who ask wrongly."""

import os
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from raven.errors import ConfigError, RefusedError, StateError
from raven.net.status_socket import (
    REQUEST_MAX,
    Answer,
    PingRequest,
    Request,
    SnapshotRequest,
    ask,
    open_socket,
    serve_socket,
)
from raven.net.unix_peer import UnixPeer
from raven.status import AgentSnapshot, Lane, PingResult


def _snapshot() -> AgentSnapshot:
    return AgentSnapshot(
        node="shop-1",
        cluster="c",
        software="0",
        pid=1,
        uptime_s=1.0,
        draining=False,
        uplinks=[],
        packets=Lane(state="off", detail="switched off"),
        pod_cidrs=[],
        allow=["node:1"],
        refused={},
        problems=[],
    )


async def _answer(request: Request, peer: UnixPeer) -> Answer:
    assert peer == (os.getpid(), os.getuid(), os.getgid())
    match request:
        case SnapshotRequest():
            return Answer(snapshot=_snapshot())
        case PingRequest(node="nobody"):
            raise RefusedError("unknown", "no such node")
        case PingRequest(node=node):
            return Answer(ping=PingResult(node=node, stream_rtt_ms=1.5, packet_off=True))
        case _:
            raise RefusedError("unknown", "a question of another daemon")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "raven.sock"


async def test_question_and_answer(path: Path, nursery: trio.Nursery) -> None:
    nursery.start_soon(serve_socket, open_socket(path), path, _answer)
    assert (await ask(path, SnapshotRequest())).snapshot == _snapshot()
    assert (await ask(path, PingRequest(node="a"))).ping == PingResult(
        node="a", stream_rtt_ms=1.5, packet_off=True
    )
    assert (await ask(path, PingRequest(node="nobody"))).error == "no such node"


async def test_the_socket_is_for_owner_and_group_and_goes_with_its_daemon(path: Path) -> None:
    listener = open_socket(path, group="root" if os.getuid() == 0 else "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_socket, listener, path, _answer)
        await ask(path, SnapshotRequest())
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        nursery.cancel_scope.cancel()
    with pytest.raises(StateError, match="there is no such socket"):
        await ask(path, SnapshotRequest())


@pytest.mark.parametrize(
    "line", [b"\n", b"garbage\n", b'{"op":"reboot"}\n', b'{"op":"ping"}\n', b'{"op":1}\n', b"\xff\xfe\n"]
)
async def test_what_is_no_request_gets_a_sentence(path: Path, nursery: trio.Nursery, line: bytes) -> None:
    nursery.start_soon(serve_socket, open_socket(path), path, _answer)
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(line)
        assert b"not a request" in await stream.receive_some()
        await stream.send_all(b'{"op":"snapshot"}\n')
        assert b"shop-1" in await stream.receive_some()


async def test_an_endless_request_is_cut_off(path: Path, nursery: trio.Nursery) -> None:
    nursery.start_soon(serve_socket, open_socket(path), path, _answer)
    async with await trio.open_unix_socket(path) as stream:
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while True:
                await stream.send_all(bytes(REQUEST_MAX))
    assert (await ask(path, SnapshotRequest())).snapshot is not None


async def test_a_second_daemon_does_not_take_the_socket(path: Path, nursery: trio.Nursery) -> None:
    nursery.start_soon(serve_socket, open_socket(path), path, _answer)
    with pytest.raises(StateError, match="is the daemon running already"):
        open_socket(path)
    assert (await ask(path, SnapshotRequest())).snapshot is not None


async def test_a_socket_left_by_a_killed_daemon_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(StateError, match="nobody listens there any more"):
        await ask(path, SnapshotRequest())
    await open_socket(path).aclose()


def test_what_cannot_become_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StateError, match="no socket is in the way"):
        open_socket(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(StateError, match="at most 107 bytes"):
        open_socket(tmp_path / ("x" * 120))
    with pytest.raises(ConfigError, match="socket_group nobody-has-this: there is no such group"):
        open_socket(tmp_path / "s", group="nobody-has-this")
    assert not (tmp_path / "s").exists()


async def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="there is no such socket"):
        await ask(tmp_path / "absent", SnapshotRequest())


async def test_a_daemon_that_hangs(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    listener = open_socket(path)
    with pytest.raises(StateError, match="no answer within 15 s"):
        await ask(path, SnapshotRequest())
    await listener.aclose()
