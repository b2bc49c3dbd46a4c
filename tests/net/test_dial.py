"""Dialling through what a corporate network puts in the way: proxies that refuse, lie, trickle and stall."""

import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from raven.errors import PeerError
from raven.net.dial import dial
from raven.net.proxy import Proxy, Ways
from tests.net.hosts import host
from tests.net.proxies import OK, answering, head_of, serving, through


async def test_connect_names_the_target_and_carries_the_password() -> None:
    heads = []

    async def proxy(stream: trio.SocketStream) -> None:
        heads.append(await head_of(stream))
        for byte in OK:  # each alone: an answer may come in any pieces
            await stream.send_all(bytes([byte]))
        assert await stream.receive_some() == b"ping"
        await stream.send_all(b"pong")

    async with serving(proxy) as port:
        for host, target in (("gw.example.com", "gw.example.com:443"), ("fd00::1", "[fd00::1]:443")):
            async with await dial(host, 443, ways=through(port, "Basic c2VjcmV0")) as stream:
                await stream.send_all(b"ping")
                assert await stream.receive_some() == b"pong"
            lines = heads[-1].decode().split("\r\n")
            assert lines[0] == f"CONNECT {target} HTTP/1.1"
            assert lines[1:] == [f"Host: {target}", "Proxy-Authorization: Basic c2VjcmV0", "", ""]


async def test_an_exempt_gateway_is_dialled_straight() -> None:
    async def target(stream: trio.SocketStream) -> None:
        await stream.send_all(b"straight")

    async with serving(target) as port:
        ways = Ways(Proxy("127.0.0.1", 1), ("127.0.0.0/8",))
        async with await dial("127.0.0.1", port, ways=ways) as stream:
            assert await stream.receive_some() == b"straight"


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
            "proxy-auth",
            "wants a user and a password",
        ),
        (
            b"HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
            "proxy-auth",
            "asks for Negotiate, NTLM, and Raven speaks Basic only",
        ),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", "proxy-forbids", "gw:443 pass (403)"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", "proxy-target", "cannot reach gw:443 (502)"),
        (b"HTTP/1.1 503 x\r\n\r\n", "proxy-target", "(503)"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n", "proxy-answer", "with 302"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "proxy-answer", "with 101"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "proxy-answer", "is it an HTTP proxy?"),
        (b"", "proxy-answer", "hung up instead of answering"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "proxy-answer", "is it an HTTP proxy?"),
        (b"y" * 70_000, "proxy-answer", "is it an HTTP proxy?"),
        (OK + b"<html>", "proxy-answer", "bytes of its own"),
    ],
)
async def test_each_refusal_has_its_reason_and_sentence(answer: bytes, reason: str, words: str) -> None:
    async with serving(answering(answer)) as port:
        with pytest.raises(PeerError) as caught:
            await dial("gw", 443, ways=through(port))
    assert caught.value.reason == reason
    assert words in str(caught.value)
    assert f"the proxy 127.0.0.1:{port}" in str(caught.value)


async def test_a_refused_password_is_said_and_not_shown() -> None:
    answer = b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\nX-Echo: Basic c2VjcmV0\r\n\r\n"
    async with serving(answering(answer)) as port:
        with pytest.raises(PeerError, match="does not take that user and password") as caught:
            await dial("gw", 443, ways=through(port, "Basic c2VjcmV0"))
    assert "c2VjcmV0" not in repr(caught.value)


async def test_a_proxy_that_stalls_costs_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()

    async def stall(stream: trio.SocketStream) -> None:
        await head_of(stream)
        while True:  # a byte now and then does not put the deadline off
            await stream.send_all(b"H")
            await trio.sleep(1)

    autojump_clock.autojump_threshold = 0.05  # real sockets stand in between
    async with serving(stall) as port:
        with pytest.raises(PeerError, match="did not answer CONNECT within 5 s") as caught:
            await dial("gw", 443, ways=through(port), answer_max=5)
    assert caught.value.reason == "proxy-answer"
    assert trio.current_time() - began < 8


async def test_a_proxy_that_is_not_there_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(
            PeerError, match=rf"the proxy 127.0.0.1:{port}: cannot connect: .*refused"
        ) as caught:
            await dial("gw", 443, ways=through(port))
    assert caught.value.reason == "proxy-connect"


@pytest.mark.parametrize("host", ["gw\r\nX-Evil: 1", "gw evil", "gw\x00", "gätewäy"])
async def test_a_name_that_is_none_reaches_no_wire(host: str) -> None:
    with pytest.raises(PeerError, match="no host's name"):
        await dial(host, 443, ways=through(1))


# IPv6 and IPv4 raced ------------------------------------------------------------------------------


async def swallow(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


class TwoAddresses(trio.abc.HostnameResolver):
    """A name with an IPv6 address, first as resolvers have it, and an IPv4 one."""

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        assert port is not None
        tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6, *tcp, ("fd00::1", int(port), 0, 0)),
            (socket.AF_INET, *tcp, ("127.0.0.1", int(port))),
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.mark.netns
def test_an_ipv6_that_swallows_everything_costs_less_than_a_second(tmp_path: Path) -> None:
    """RFC 8305: the other family is tried a quarter of a second later, beside the first."""
    took: list[float] = []

    async def race() -> None:
        trio.socket.set_custom_hostname_resolver(TwoAddresses())
        async with serving(swallow) as port:
            began = trio.current_time()
            stream = await dial("gw.example.com", port)
            took.append(trio.current_time() - began)
            assert stream.socket.family == socket.AF_INET
            await stream.aclose()

    with host(tmp_path) as machine:
        machine.run("ip", "link", "set", "lo", "up")
        machine.run("ip", "addr", "add", "fd00::1/128", "dev", "lo")
        chain = "type filter hook output priority 0;\n ip6 daddr fd00::1 drop\n"
        rules = f"table ip6 hole {{\n chain out {{\n {chain} }}\n }}\n"
        machine.run("nft", "-f", "-", text=rules)
        machine.inside(lambda: trio.run(race))
    assert 0.2 < took[0] < 1.0
