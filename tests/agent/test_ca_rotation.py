"""A new CA between real daemons: for an agent that is there, one that comes late, one that comes too late."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509

from raven.pki.certificate import pin_of
from tests.agent.renewals import down, leaf_of, renewed
from tests.daemons import GATEWAY, Loopback, command, echo, loopback, until


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


def _pins(path: Path) -> list[bytes]:
    return [pin_of(one) for one in x509.load_pem_x509_certificates(path.read_bytes())]


def _known(net: Loopback, node: str) -> Callable[[], Awaitable[list[bytes]]]:
    """The CAs that a node believes, newest first."""

    async def read() -> list[bytes]:
        return _pins(net.directory / node / "ca.crt")

    return read


async def _ca(net: Loopback, verb: str, code: int = 0) -> str:
    ran = await command(GATEWAY, "ca", verb, "--state-dir", net.state)
    assert ran.code == code, ran
    return ran.err


def _pin(net: Loopback) -> Callable[[], Awaitable[bytes]]:
    """The CA the gateway has."""

    async def read() -> bytes:
        return _pins(net.state / "ca.crt")[0]

    return read


async def test_a_new_ca_reaches_all_who_come_in_time(net: Loopback) -> None:
    async with net.gateway() as first, echo() as port:
        for node in ("shop-1", "late", "too-late"):
            await net.join(node)
        (old_pin,) = _pins(net.state / "ca.crt")
        old_key, old = (net.state / "ca.key").read_bytes(), leaf_of(net)
        async with net.agent("shop-1", "--allow", f"node:{port}") as agent:
            await first.connected("shop-1")
            stream, _ = await net.connect(f"shop-1:{port}")
            async with stream:
                await _ca(net, "rotate")
                new_pin = await until(_pin(net), lambda pin: pin != old_pin, "the new CA")
                assert all(old_key != path.read_bytes() for path in net.state.rglob("*") if path.is_file())
                assert "still trusted" in await _ca(net, "rotate", code=1)
                new = await renewed(net, old)  # over the tunnel there is
                assert _pins(net.directory / "shop-1" / "ca.crt") == [new_pin, old_pin]
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
            (uplink,) = (await agent.agent_snapshot()).uplinks
            assert (uplink.lane.state, uplink.attempts) == ("up", 0)
            assert (await agent.agent_snapshot()).problems == []
        async with net.agent("shop-1"):  # by the new CA now, on both sides
            await first.connected("shop-1")
        await net.join("joined-now")
        async with net.agent("joined-now"):
            await first.connected("joined-now")
        assert await first.stop() == 0
    async with net.gateway() as second:  # the overlap outlives a restart
        before = leaf_of(net, "late")
        async with net.agent("late"):
            await renewed(net, before, "late")
        async with net.agent("shop-1"):
            await second.connected("shop-1")
            await _ca(net, "retire")
            await until(_known(net, "shop-1"), lambda pins: pins == [new_pin], "the old CA to go")
        async with net.agent("late"):
            await second.connected("late")
            await until(_known(net, "late"), lambda pins: pins == [new_pin], "the old CA to go")
        assert leaf_of(net) == new
        async with net.agent("too-late") as stranger:
            await down(stranger, "another cluster's CA")
        assert "no CA but the current one" in await _ca(net, "retire", code=1)
    assert not (net.state / "previous").exists()
    assert "Traceback" not in "".join(path.read_text() for path in net.directory.glob("*.log"))


async def test_a_gateway_that_does_not_run_takes_it_at_its_next_start(net: Loopback) -> None:
    async with net.gateway() as first:
        await net.join("shop-1")
        assert await first.stop() == 0
    (old_pin,) = _pins(net.state / "ca.crt")
    await _ca(net, "rotate")
    assert _pins(net.state / "ca.crt") == [old_pin]
    async with net.gateway() as second, net.agent("shop-1"):
        assert _pins(net.state / "ca.crt") != [old_pin]
        await second.connected("shop-1")
