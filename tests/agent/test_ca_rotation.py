"""A new CA between real daemons: for an agent that is there, one that comes late, one that comes too late."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509

from raven.pki.certificate import pin_of
from tests.agent.test_renewal import down, leaf_of, renewed
from tests.daemons import GATEWAY, Loopback, command, loopback, until


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


async def test_a_new_ca_reaches_all_who_come_in_time(net: Loopback) -> None:
    async with net.gateway() as first:
        for node in ("shop-1", "late", "too-late"):
            await net.join(node)
        (old_pin,) = _pins(net.state / "ca.crt")
        old_key, old = (net.state / "ca.key").read_bytes(), leaf_of(net)
        await _ca(net, "rotate")
        async with net.agent("shop-1"):
            await first.connected("shop-1")  # nothing happens to a gateway that runs
        assert leaf_of(net) == old
        assert _pins(net.state / "ca.crt") == [old_pin]
        assert await first.stop() == 0
    async with net.gateway() as second:
        (new_pin,) = _pins(net.state / "ca.crt")
        assert new_pin != old_pin
        assert all(old_key != path.read_bytes() for path in net.state.rglob("*") if path.is_file())
        assert "still trusted" in await _ca(net, "rotate", code=1)
        async with net.agent("shop-1") as agent:
            new = await renewed(net, old)
            assert _pins(net.directory / "shop-1" / "ca.crt") == [new_pin, old_pin]
            assert (await agent.agent_snapshot()).problems == []
        async with net.agent("shop-1"):  # by the new CA now, on both sides
            await second.connected("shop-1")
        await net.join("joined-now")
        async with net.agent("joined-now"):
            await second.connected("joined-now")
        assert await second.stop() == 0
    async with net.gateway() as third:
        before = leaf_of(net, "late")
        async with net.agent("late"):
            await renewed(net, before, "late")
        await _ca(net, "retire")
        assert await third.stop() == 0
    async with net.gateway() as fourth:
        for node in ("shop-1", "late"):
            async with net.agent(node):
                await fourth.connected(node)
                await until(_known(net, node), lambda pins: pins == [new_pin], "the old CA to go")
        assert leaf_of(net) == new
        async with net.agent("too-late") as stranger:
            await down(stranger, "another cluster's CA")
        assert "no CA but the current one" in await _ca(net, "retire", code=1)
    assert not (net.state / "previous").exists()
    assert "Traceback" not in "".join(path.read_text() for path in net.directory.glob("*.log"))
