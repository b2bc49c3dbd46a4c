"""The way to somebody who is no gateway, on loopback."""

import errno
from functools import partial

import trio

from raven.config import Address
from raven.diagnosis.contact import meet
from tests.daemons import free_port
from tests.gateway.oam.site import target
from tests.net.proxies import OK, answering, serving, through


async def test_nobody_there() -> None:
    found = await meet(Address("127.0.0.1", free_port()))
    assert (found.lookups, found.connected, found.shown) == ((), (), None)
    assert [attempt.errno for attempt in found.attempts] == [errno.ECONNREFUSED]


async def test_a_name_with_both_families() -> None:
    found = await meet(Address("localhost", free_port()), greet=False)
    assert [lookup.family for lookup in found.lookups] == [4, 6]
    assert "127.0.0.1" in found.lookups[0].addresses


async def test_somebody_who_hangs_up() -> None:
    async with target(partial(trio.abc.AsyncResource.aclose)) as port:
        found = await meet(Address("127.0.0.1", port))
    assert found.connected
    assert found.tls_reason in ("tls-eof", "tls")
    assert found.tls_problem


async def test_a_name_that_no_resolver_takes() -> None:
    found = await meet(Address("a" * 70, 443))
    assert not found.attempts
    assert all(lookup.problem for lookup in found.lookups)


async def test_a_proxy_that_refuses() -> None:
    async with serving(answering(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as port:
        found = await meet(Address("gw.example.com", 443), ways=through(port))
    assert found.proxied is not None
    assert (found.proxied.proxy, found.proxied.reason) == (f"127.0.0.1:{port}", "proxy-forbids")
    assert (found.lookups, found.attempts, found.reached) == ((), (), False)


async def test_somebody_behind_a_proxy_who_hangs_up() -> None:
    async with serving(answering(OK)) as port:
        found = await meet(Address("gw.example.com", 443), ways=through(port))
    assert found.reached
    assert found.proxied is not None
    assert found.proxied.source == "127.0.0.1"
    assert found.tls_reason in ("tls-eof", "tls")


async def test_a_gateway_that_is_busy() -> None:
    async def busy(stream: trio.SocketStream) -> None:
        await stream.send_all(b"RAVEN BUSY 7\n")

    async with serving(busy) as port:
        found = await meet(Address("127.0.0.1", port))
    assert (found.tls_reason, "asks to come back in 7 s" in found.tls_problem) == ("busy", True)
