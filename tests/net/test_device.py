"""The UAPI client against a socket that answers well, badly, late or not at all."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from raven.keys import PrivateKey, PublicKey
from raven.net import device
from raven.net.device import DeviceError, NoDevice, UapiDevice
from raven.wg.configuration import DeviceChange, DeviceState, PeerChange, PeerState, UapiError
from raven.wg.uapi import format_set
from raven.wg.uapi_answers import format_get

KEY = PublicKey(bytes([7]) * 32)
STATE = DeviceState(
    private_key=PrivateKey(bytes([9]) * 32),
    listen_port=4500,
    peers=[PeerState(public_key=KEY, rx_bytes=5, allowed_ips=[])],
)


@asynccontextmanager
async def answering(directory: Path, answer: Callable[[bytes], bytes]) -> AsyncIterator[list[bytes]]:
    """A socket `wg0.sock` that gives `answer` to each request, byte by byte; yields the requests."""
    requests: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while not request.endswith(b"\n\n"):
                request += await stream.receive_some(4096)
            requests.append(request)
            for byte in answer(request):
                await stream.send_all(bytes([byte]))

    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(directory / "wg0.sock"))
    sock.listen(5)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, [trio.SocketListener(sock)])
        yield requests
        nursery.cancel_scope.cancel()


async def test_state_and_configuration_pass_as_they_are(tmp_path: Path) -> None:
    change = DeviceChange(listen_port=4500, peers=[PeerChange(public_key=KEY, keepalive=25)])
    answers = {b"get=1\n\n": format_get(STATE).encode(), format_set(change).encode(): b"errno=0\n\n"}
    async with answering(tmp_path, lambda request: answers[request]) as requests:
        wg0 = UapiDevice("wg0", tmp_path)
        assert await wg0.state() == STATE
        await wg0.configure(change)
    assert requests == list(answers)


async def test_a_refusal_carries_the_devices_errno(tmp_path: Path) -> None:
    async with answering(tmp_path, lambda request: b"errno=98\n\n"):
        with pytest.raises(UapiError) as caught:
            await UapiDevice("wg0", tmp_path).configure(DeviceChange(listen_port=4500))
    assert caught.value.errno == 98


async def test_counters_of_a_device_that_counts_and_of_one_that_does_not(tmp_path: Path) -> None:
    async with answering(tmp_path, lambda request: b"no-peer=3\nreplayed=1\nerrno=0\n\n"):
        assert await UapiDevice("wg0", tmp_path).counters() == {"no-peer": 3, "replayed": 1}
    (tmp_path / "wg0.sock").unlink()
    async with answering(tmp_path, lambda request: b""):
        assert await UapiDevice("wg0", tmp_path).counters() == {}


@pytest.mark.parametrize("answer", [b"", b"listen_port=45", b"listen_port=4500\n"])
async def test_a_broken_off_answer_is_no_state(tmp_path: Path, answer: bytes) -> None:
    async with answering(tmp_path, lambda request: answer):
        with pytest.raises(DeviceError, match="broke off its answer"):
            await UapiDevice("wg0", tmp_path).state()


async def test_an_unreadable_answer_is_a_typed_error(tmp_path: Path) -> None:
    async with answering(tmp_path, lambda request: b"listen_port=many\xff\nerrno=0\n\n"):
        with pytest.raises(UapiError):
            await UapiDevice("wg0", tmp_path).state()


async def test_an_endless_answer_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "ANSWER_MAX", 100)
    async with answering(tmp_path, lambda request: b"fwmark=0\n" * 20):
        with pytest.raises(DeviceError, match="broke off"):
            await UapiDevice("wg0", tmp_path).state()


async def test_silence_ends_in_a_sentence(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    with sock:
        await sock.bind(str(tmp_path / "wg0.sock"))
        sock.listen(1)
        with pytest.raises(DeviceError, match="does not answer within 5 s"):
            await UapiDevice("wg0", tmp_path).state()


@pytest.mark.parametrize("left", [False, True], ids=["no socket", "a dead one"])
async def test_nobody_there_is_told_apart(tmp_path: Path, left: bool) -> None:
    if left:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        with sock:
            await sock.bind(str(tmp_path / "wg0.sock"))
    with pytest.raises(NoDevice):
        await UapiDevice("wg0", tmp_path).state()


async def test_a_socket_out_of_reach_is_no_absent_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="Not a directory"):
        await UapiDevice("wg0", tmp_path / "file").state()
