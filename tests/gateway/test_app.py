"""The gateway as a process: what a user does with it, and what strangers and accidents do to it."""

import os
import re
import shutil
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
import trio

from raven.net.tls import agent_context
from raven.registry.agent_state import open_agent
from raven.status import GatewaySnapshot
from tests.cli.daemon import ravenctl
from tests.daemons import GATEWAY, Loopback, command, echo, free_port, loopback, running, until


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def _echoed(stream: trio.SocketStream, data: bytes) -> None:
    with trio.fail_after(15):
        await stream.send_all(data)
        back = b""
        while len(back) < len(data):
            chunk = await stream.receive_some()
            assert chunk
            back += chunk
    assert back == data


async def test_join_run_reach_and_stop(net: Loopback) -> None:
    async with net.gateway() as gateway, echo() as port:
        assert (await gateway.gateway_snapshot()).nodes == []
        await net.join("shop-1")
        before = await gateway.node("shop-1")
        assert (before.connected, before.last_seen_s, before.stream_lane) == (False, None, "down")
        async with net.agent("shop-1", "--allow", f"node:{port}") as agent:
            node = await gateway.connected("shop-1")
            assert node.stream_lane == "up"
            assert node.packet_lane == "off"
            assert "--no-packets" in node.packets.detail
            assert node.last_seen_s is not None
            assert node.last_seen_s < 35
            stream, head = await net.connect(f"shop-1:{port}")
            async with stream:
                assert head.startswith(b"HTTP/1.1 200 ")
                await _echoed(stream, b"hello" * 1000)
            ping = await gateway.ping("shop-1")
            assert ping.stream_rtt_ms is not None
            assert ping.stream_rtt_ms > 0
            assert ping.packet_off
            (uplink,) = (await agent.agent_snapshot()).uplinks
            assert (uplink.name, uplink.lane.state) == ("gw-1", "up")
            assert (await agent.ping("gw-1")).stream_rtt_ms is not None
            assert await agent.stop() == 0
            assert not agent.socket.exists()
        gone = await gateway.connected("shop-1", yes=False)
        assert gone.stream.detail == "it has no tunnel"
        assert await gateway.stop() == 0
        assert not gateway.socket.exists()
    assert "Traceback" not in gateway.log.read_text() + agent.log.read_text()


async def test_both_daemons_are_scraped(net: Loopback) -> None:
    ports = free_port(), free_port()
    async with net.gateway("--metrics-listen", f"127.0.0.1:{ports[0]}") as gateway:
        await net.join("shop-1")
        async with net.agent("shop-1", "--metrics-listen", f"127.0.0.1:{ports[1]}"):
            await gateway.connected("shop-1")
            await _talk(net, _context(alpn=["raven/1"]))
            await gateway.refused("no-certificate")
            cloud, edge = [await _scrape(port) for port in ports]
    assert cloud["raven_tunnels"] == 1.0
    assert cloud['raven_connections_refused_total{reason="no-certificate"}'] == 1.0
    assert cloud['raven_tunnel_evidence_age_seconds{node="shop-1"}'] < 35
    assert cloud['raven_tunnel_bytes_total{direction="in",node="shop-1"}'] > 0
    assert edge[f'raven_tunnel_up{{gateway="{net.agents}"}}'] == 1.0
    assert 20e6 < edge["process_resident_memory_bytes"] < 48e6


async def _scrape(port: int) -> dict[str, float]:
    """Every sample of /metrics, by name and labels."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b"".join([chunk async for chunk in stream]).decode()
    assert text.startswith("HTTP/1.1 200 ")
    lines = text.partition("\r\n\r\n")[2].splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


async def test_an_answer_for_every_target_that_cannot_be(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        await net.join("shop-2")
        async with net.agent("shop-1"):
            await gateway.connected("shop-1")
            for target, status, words in (
                ("nobody:9100", b"502", b"nobody"),
                ("shop-2:9100", b"503", b"shop-2"),
                ("shop-1:22", b"403", b"allow"),
            ):
                stream, head = await net.connect(target)
                async with stream:
                    body = head + b"".join([chunk async for chunk in stream])
                assert head.split()[1] == status, body
                assert words in body


async def test_strangers_get_a_sentence_and_disturb_nobody(net: Loopback) -> None:
    async with net.gateway() as gateway, echo() as port:
        await net.join("shop-1")
        await net.join("shop-2")
        async with net.agent("shop-1", "--allow", f"node:{port}"):
            await gateway.connected("shop-1")
            stream, _ = await net.connect(f"shop-1:{port}")
            async with stream:
                await _garbage(net)
                await _half_a_handshake(net)
                assert b"raven/1" in await _talk(net, _context(alpn=["h2"]))
                assert b"raven/1" in await _talk(net, _context(alpn=[]))
                assert b"no certificate" in await _talk(net, _context(alpn=["raven/1"]))
                await _oversized_frame(net)
                await gateway.refused("wrong-alpn", 2)
                await gateway.refused("no-certificate")
                await _echoed(stream, b"still here" * 100)
            refused = (await gateway.gateway_snapshot()).refused
            assert sum(refused.values()) >= 6, refused
            assert (await gateway.node("shop-1")).connected
    assert "Traceback" not in gateway.log.read_text()


def _context(alpn: list[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


async def _talk(net: Loopback, context: ssl.SSLContext, say: bytes = b"") -> bytes:
    """The first that the gateway says to a TLS client of that context."""
    stream = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", _port(net.agents)), context)
    with trio.fail_after(15):
        async with stream:
            await stream.do_handshake()
            if say:
                await stream.send_all(say)
            return bytes(await stream.receive_some())


async def _garbage(net: Loopback) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", _port(net.agents)) as stream:
        with trio.fail_after(15):
            try:
                await stream.send_all(os.urandom(4096))
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass


async def _half_a_handshake(net: Loopback) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _context(["raven/1"]).wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    async with await trio.open_tcp_stream("127.0.0.1", _port(net.agents)) as stream:
        await stream.send_all(outgoing.read()[:100])


async def _oversized_frame(net: Loopback) -> None:
    state = open_agent(net.directory / "shop-2", now=time.time())
    heard = await _talk(net, agent_context(state), b"\xff\xff\xff" + bytes(64))
    state.close()
    assert heard  # a GOAWAY with the reason


async def test_a_gateway_restart_under_load_loses_nobody(net: Loopback) -> None:
    names = ["shop-1", "shop-2", "shop-3"]
    async with echo() as port, net.gateway("--drain-seconds", 1) as gateway:
        for name in names:
            await net.join(name)
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            for name in names:
                nursery.start_soon(_hold_agent, net, name, port, stop)
            for name in names:
                await gateway.connected(name)
                nursery.start_soon(_load, net, f"{name}:{port}")
            await until(gateway.gateway_snapshot, _busy, "streams on every tunnel")
            assert await gateway.stop() == 0
            async with net.gateway() as second:
                for name in names:
                    await second.connected(name)
                    stream, head = await net.connect(f"{name}:{port}")
                    async with stream:
                        assert head.startswith(b"HTTP/1.1 200 ")
                        await _echoed(stream, b"back again")
                stop.set()


def _busy(snapshot: GatewaySnapshot) -> bool:
    return bool(snapshot.nodes) and all(node.streams for node in snapshot.nodes)


async def _hold_agent(net: Loopback, name: str, port: int, stop: trio.Event) -> None:
    async with net.agent(name, "--allow", f"node:{port}") as agent:
        await stop.wait()
        assert agent.process.returncode is None  # it lived through the restart
        assert "Traceback" not in agent.log.read_text()


async def _load(net: Loopback, target: str) -> None:
    """Echoes until the gateway ends the stream."""
    stream, _ = await net.connect(target)
    async with stream:
        try:
            while True:
                await _echoed(stream, bytes(65536))
        except (trio.BrokenResourceError, AssertionError):
            return


async def test_a_gateway_that_shuts_down_says_when_to_come_back(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        async with net.agent("shop-1") as agent:
            await gateway.connected("shop-1")
            assert await gateway.stop() == 0

            async def log() -> str:
                return agent.log.read_text()

            asked = re.compile(r"it is shutting down, and asks to come back in [1-9] s")
            await until(log, lambda said: bool(asked.search(said)), "the gateway's wish")
            async with net.gateway() as second:
                await second.connected("shop-1")


async def test_two_machines_with_one_identity(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        shutil.copytree(net.directory / "shop-1", net.directory / "cloned")
        async with net.agent("shop-1") as first:
            await gateway.connected("shop-1")
            async with net.agent("cloned") as second:
                await gateway.refused("node-connected")
                message = await second.notified("already has a tunnel that answers")
                assert "do two machines have one identity" in message
            assert (await gateway.node("shop-1")).connected
            (uplink,) = (await first.agent_snapshot()).uplinks
            assert uplink.lane.state == "up"


async def _refuses_to_start(net: Loopback, *arguments: object, code: int) -> str:
    ran = await command(GATEWAY, "run", *net.options(), "--socket", net.directory / "s", *arguments)
    assert ran.code == code, ran
    assert "Traceback" not in ran.err
    lines = [line for line in ran.err.splitlines() if line.startswith("raven-gateway: ")]
    assert lines, ran.err
    return "\n".join(lines)


async def test_a_port_in_use(net: Loopback) -> None:
    with socket.create_server(("127.0.0.1", _port(net.oam))):
        message = await _refuses_to_start(net, code=2)
    assert f"oam_listen {net.oam}: the port is in use; held by " in message
    assert f"(pid {os.getpid()})" in message


async def test_two_gateways_on_one_directory(net: Loopback) -> None:
    async with net.gateway():
        assert str(net.state) in await _refuses_to_start(net, code=1)


async def test_corrupted_state_is_refused_named_and_kept(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        assert await gateway.stop() == 0
    for name in ("registry.sqlite", "ca.crt", "ca.key"):
        path = net.state / name
        good = path.read_bytes()
        path.write_bytes(b"not what it was" + good[15:])
        message = await _refuses_to_start(net, code=1)
        assert str(path) in message
        assert path.read_bytes().startswith(b"not what it was")
        assert list(net.state.glob(f"{name}.corrupt-*"))
        path.write_bytes(good)
    async with net.gateway() as gateway:
        assert [node.name for node in (await gateway.gateway_snapshot()).nodes] == ["shop-1"]


async def test_a_wrong_option_names_itself(net: Loopback, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("drain_second = 3\n")
    message = await _refuses_to_start(net, "--config", file, "--log-level", "loud", code=2)
    assert f"{file}: drain_second: there is no such key; did you mean drain_seconds?" in message
    assert "--log-level loud: expected debug, info, warning or error" in message


async def test_no_secret_in_the_log(net: Loopback) -> None:
    async with net.gateway() as gateway:
        token = await net.token()
        assert await gateway.stop() == 0
    text = gateway.log.read_text()
    assert "raven1." not in text
    assert token not in text
    assert "raven-gateway token create" in text


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv to drop privileges with")
async def test_without_any_right_to_the_network_streams_work(net: Loopback) -> None:
    """No CAP_NET_ADMIN, nor any other capability, and packets wanted."""
    options = [word for word in net.options() if word != "--no-packets"]
    program = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *GATEWAY]
    async with running(program, net.directory, *options, name="gateway") as gateway:
        await gateway.notified("READY=1")
        snapshot = await until(
            gateway.gateway_snapshot, lambda now: now.packets.state != "starting", "a verdict on packets"
        )
        assert snapshot.packets.state in ("off", "down")
        assert "CAP_NET_ADMIN" in snapshot.packets.detail
        await net.join("shop-1")
        async with net.agent("shop-1"):
            await gateway.connected("shop-1")
        assert await gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


async def test_a_ping_of_a_node_that_fell_silent_is_answered(net: Loopback) -> None:
    """The gateway says so before `ravenctl` takes it for dead."""
    async with net.gateway() as gateway:
        await net.join("shop-1")
        async with net.agent("shop-1") as agent:
            await gateway.connected("shop-1")
            agent.process.send_signal(signal.SIGSTOP)
            try:
                ran = await ravenctl("--socket", gateway.socket, "ping", "shop-1", "-c", "1")
            finally:
                agent.process.send_signal(signal.SIGCONT)
    assert ran.code == 1, ran.err
    assert "stream lane down" in ran.out


async def test_a_second_signal_ends_a_drain(net: Loopback) -> None:
    async with net.gateway("--drain-seconds", 60) as gateway, echo() as port:
        await net.join("shop-1")
        async with net.agent("shop-1", "--allow", f"node:{port}"):
            await gateway.connected("shop-1")
            stream, _ = await net.connect(f"shop-1:{port}")
            async with stream:
                gateway.process.terminate()
                await gateway.notified("STOPPING=1")
                await _echoed(stream, b"a drain lets streams finish")
                await gateway.stop()
            assert not gateway.socket.exists()
