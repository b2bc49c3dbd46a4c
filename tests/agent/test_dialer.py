"""The agent's end of a stream: allowed, looked up, connected, spliced; or refused with a sentence."""

import errno
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from agent.dialer import Dialer
from raven.control.messages import OpenRequest, encode
from raven.net.tunnel import Priority, RefusalCode, StreamRefused, Tunnel, TunnelLost, TunnelStream
from raven.oam.policy import Allow
from tests.daemons import free_port


class Names(trio.abc.HostnameResolver):
    """A DNS in which everything is as a test says."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.asked: list[str] = []

    async def getaddrinfo(
        self, host: bytes | None, port: object, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        name = (host or b"").decode()
        self.asked.append(name)
        if name == "slow.lan":
            await trio.sleep_forever()
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, type, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, type, 6, "", (address, port))
            for address in self.names[name]
        ]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError  # trio's resolver has it, and no dial asks for names


class Ends:
    """The gateway's end of a tunnel whose agent's end is a Dialer."""

    def __init__(self, tunnel: Tunnel, dialer: Dialer) -> None:
        self.tunnel = tunnel
        self.dialer = dialer

    async def open(self, host: str, port: int) -> TunnelStream:
        request = OpenRequest(host=host, port=port, asker="10.9.9.9:1", request="r1")
        return await self.tunnel.open_stream(encode(request), priority=Priority.INTERACTIVE)

    async def refused(self, host: str, port: int) -> tuple[RefusalCode, str]:
        with pytest.raises(StreamRefused) as caught:
            await self.open(host, port)
        return caught.value.code, caught.value.message


@asynccontextmanager
async def dialer(
    *allow: str, names: Names | None = None, node_address: str = "127.0.0.1"
) -> AsyncIterator[Ends]:
    trio.socket.set_custom_hostname_resolver(names or Names())
    left, right = trio.testing.memory_stream_pair()
    gateway = Tunnel(left, initiator=False, peer="edge1")
    agent = Tunnel(right, initiator=True, peer="gateway")
    made = Dialer(Allow.parse(allow), node_address=node_address)

    async def run(tunnel: Tunnel, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with suppress(TunnelLost):
            await tunnel.run(made.serve if tunnel is agent else None, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run, gateway)
        await nursery.start(run, agent)
        yield Ends(gateway, made)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def echo(host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A target that says back what it hears, until EOF, and then "bye"."""

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)
        await stream.send_all(b"bye")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def converse(stream: TunnelStream) -> bytes:
    await stream.send_all(b"hello ")
    await stream.send_eof()
    heard = b""
    async for data in stream:
        heard += data
    return heard


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("", "node:*"),
        ("", "*:*"),
        ("127.0.0.1", "node:*"),
        ("127.0.0.1", "127.0.0.0/8:*"),
        ("a.lan", "127.0.0.1:*"),
    ],
)
async def test_an_allowed_target_is_reached(host: str, rule: str) -> None:
    async with echo() as port, dialer(rule, names=Names(a_lan=["127.0.0.1"])) as ends:
        assert await converse(await ends.open(host, port)) == b"hello bye"
        await trio.testing.wait_all_tasks_blocked()
        assert ends.dialer.served == 1
        assert not ends.dialer.refused


async def test_the_node_is_tried_at_ipv6_loopback_too() -> None:
    async with echo("::1") as port, dialer("node:*") as ends:
        assert await converse(await ends.open("", port)) == b"hello bye"


async def test_the_node_is_tried_at_its_own_address_last() -> None:
    names = Names(my_node=["127.0.0.7"])
    async with echo("127.0.0.7") as port, dialer("node:*", names=names, node_address="my.node") as ends:
        assert await converse(await ends.open("", port)) == b"hello bye"


async def test_later_addresses_of_a_name_are_tried() -> None:
    names = Names(a_lan=["127.0.0.9", "127.0.0.1"])
    async with echo() as port, dialer("127.0.0.0/8:*", names=names) as ends:
        assert await converse(await ends.open("a.lan", port)) == b"hello bye"


async def test_what_the_owner_did_not_allow() -> None:
    names = Names(rebound=["10.0.0.1", "127.0.0.1"])
    async with echo() as port, dialer("10.0.0.0/8:*", names=names) as ends:
        for host in ("", "127.0.0.1", "rebound"):
            code, message = await ends.refused(host, port)
            assert code is RefusalCode.FORBIDDEN
            assert "allow list does not permit" in message
        assert ends.dialer.refused == {"not-allowed": 3}


async def test_nobody_is_asked_about_a_name_that_no_rule_could_permit() -> None:
    names = Names(a_lan=["127.0.0.1"])
    async with dialer("node:*", names=names) as ends:
        assert (await ends.refused("a.lan", 80))[0] is RefusalCode.FORBIDDEN
    assert names.asked == []


async def test_a_target_that_is_not_there() -> None:
    port = free_port()
    async with dialer("*:*") as ends:
        code, message = await ends.refused("", port)
        assert code is RefusalCode.UNREACHABLE
        assert message == f"cannot connect to node:{port}: Connection refused; is the service up there?"
        code, message = await ends.refused("gone.lan", port)
        assert code is RefusalCode.UNREACHABLE
        assert message == "cannot look up gone.lan from the node: Name or service not known"
        assert ends.dialer.refused == {"unreachable": 2}


async def test_a_name_server_that_does_not_answer(autojump_clock: trio.testing.MockClock) -> None:
    async with dialer("*:*") as ends:
        code, message = await ends.refused("slow.lan", 80)
        assert code is RefusalCode.TIMEOUT
        assert "no answer of its DNS" in message


async def test_a_target_that_does_not_answer(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A packet that is lost on purpose needs a network of its own; here connecting just never ends.
    async def never(to: object) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr("agent.dialer._connect", never)
    async with dialer("*:*") as ends:
        began = trio.current_time()
        code, message = await ends.refused("10.0.0.1", 80)
        assert code is RefusalCode.TIMEOUT
        assert message.startswith("no answer from 10.0.0.1:80")
        assert trio.current_time() - began == 10.0


async def test_an_agent_without_file_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(to: object) -> trio.SocketStream:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("agent.dialer._connect", full)
    async with dialer("*:*") as ends:
        assert (await ends.refused("", 80))[0] is RefusalCode.BUSY


async def test_a_header_that_makes_no_sense() -> None:
    async with dialer("*:*") as ends:
        with pytest.raises(StreamRefused) as caught:
            await ends.tunnel.open_stream(b"{}")
        assert caught.value.code is RefusalCode.BAD_REQUEST
        assert ends.dialer.refused == {"bad-open": 1}
        for host in ("a\x00b", "ä" * 70, "a..b", "[", "*"):  # names that only a broken gateway sends
            assert (await ends.refused(host, 80))[0] in (RefusalCode.UNREACHABLE, RefusalCode.FORBIDDEN)


async def test_a_fault_of_ours_ends_one_stream_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with echo() as port, dialer("node:*") as ends:
        with monkeypatch.context() as patched:
            patched.setattr("agent.dialer._connect", lambda to: 1 / 0)
            assert (await ends.refused("", port))[0] is RefusalCode.INTERNAL
        assert ends.dialer.refused == {"fault": 1}
        assert await converse(await ends.open("", port)) == b"hello bye"


async def test_an_opener_that_gives_up_leaves_nothing_behind() -> None:
    names = Names()
    async with dialer("*:*", names=names) as ends:
        with trio.move_on_after(0.01):
            await ends.open("slow.lan", 80)
        await trio.testing.wait_all_tasks_blocked()
        assert ends.tunnel.streams_open == 0


async def test_a_target_that_breaks_off_breaks_the_stream() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        async with dialer("node:*") as ends:
            stream = await ends.open("", listeners[0].socket.getsockname()[1])
            await stream.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        nursery.cancel_scope.cancel()
