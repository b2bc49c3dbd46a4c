"""Renewals whose answer comes after the agent gave up waiting, or that it cannot put in place at first."""

import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from agent.renewal import Renewal
from raven.control.messages import Renewed, RenewRefused
from raven.errors import PeerError, RefusedError
from raven.net.tunnel import Tunnel
from raven.pki.certificate import load_leaf
from raven.registry.agent_state import open_agent
from tests.aged import DAY, past
from tests.daemons import Daemon, Loopback, loopback, running, until

# Issues at once, and answers when there is the file ANSWER: as a gateway whose tunnel was away in between.
LATE_GATEWAY = """
import os
from pathlib import Path
import trio
import gateway.trust
issue = gateway.trust.renew
async def renew(*arguments, **options):
    issued = await issue(*arguments, **options)
    while not Path(os.environ["ANSWER"]).exists():
        await trio.sleep(0.02)
    return issued
gateway.trust.renew = renew
from gateway.main import main
main()
"""


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    """Node shop-1, whose certificate is due."""
    net = loopback(tmp_path)
    with past(net.state, now=time.time() - 61 * DAY) as then:
        then.join(net.directory / "shop-1", "shop-1", net.agents)
    return net


@asynccontextmanager
async def _pair(net: Loopback, **constants: float) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Gateway and agent, whose renewal has these constants instead of its own."""
    changed = "; ".join(f"agent.renewal.{name} = {value}" for name, value in constants.items())
    agent = [sys.executable, "-c", f"import agent.renewal; {changed}; from agent.main import main; main()"]
    options = ["--state-dir", net.directory / "shop-1", "--no-packets"]
    environment = {"ANSWER": str(_answer(net))}
    late = [sys.executable, "-c", LATE_GATEWAY]
    async with running(
        late, net.directory, *net.options(), name="gateway", environment=environment
    ) as gateway:
        await gateway.notified("READY=1")
        async with running(agent, net.directory, *options, name="agent") as ours:
            await ours.notified("READY=1")
            yield gateway, ours


def _answer(net: Loopback) -> Path:
    return net.directory / "answer"


def _events(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


async def _serial(net: Loopback) -> str:
    return load_leaf((net.directory / "shop-1" / "node.crt").read_bytes()).serial


async def test_a_certificate_that_comes_too_late_is_put_in_place(net: Loopback) -> None:
    old = await _serial(net)
    async with _pair(net, ANSWER_MAX=0.5) as (gateway, agent):
        snapshot = await until(agent.agent_snapshot, lambda now: bool(now.problems), "a problem")
        assert "no answer within" in snapshot.problems[0]
        _answer(net).touch()
        # The agent would ask again after a minute at the earliest.
        new = await until(lambda: _serial(net), lambda serial: serial != old, "another certificate")
        await until(agent.agent_snapshot, lambda now: not now.problems, "no problem")
        assert [line["serial"] for line in _events(gateway, "certificate renewed")] == [new]
        assert len(_events(agent, "connected")) == 1
        assert not _events(gateway, "not renewed")


async def test_one_that_could_not_be_put_in_place_is_given_again_over_the_same_tunnel(net: Loopback) -> None:
    old = await _serial(net)
    async with _pair(net, PAUSE_MIN=0.2, RETRY_MAX=0.2) as (gateway, agent):
        pending = net.directory / "shop-1" / ".renewing"

        async def has_key() -> bool:
            return (pending / "node.key").exists()

        await until(has_key, bool, "a key")
        (pending / "node.crt" / "in the way").mkdir(parents=True)
        _answer(net).touch()
        await until(agent.agent_snapshot, lambda now: bool(now.problems), "a problem")
        (pending / "node.crt" / "in the way").rmdir()
        (pending / "node.crt").rmdir()
        new = await until(lambda: _serial(net), lambda serial: serial != old, "another certificate")
        assert {line["serial"] for line in _events(gateway, "certificate renewed")} == {new}
        assert len(_events(agent, "connected")) == 1
        assert not _events(gateway, "not renewed")


class _SilentTunnel:
    """Takes requests, and whoever is at its other end says nothing."""

    def __init__(self) -> None:
        self.taken = 0

    async def send_control(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.taken += 1


@pytest.fixture
def renewal(net: Loopback) -> Renewal:
    state = open_agent(net.directory / "shop-1", now=time.time())
    state.close()
    return Renewal(state)


async def test_a_late_answer_counts_once_and_ends_no_tunnel(
    renewal: Renewal, autojump_clock: trio.testing.MockClock
) -> None:
    silent = _SilentTunnel()
    tunnel, other = cast(Tunnel, silent), cast(Tunnel, _SilentTunnel())
    late = RenewRefused(reason="unavailable", message="")
    for _ in range(3):
        with pytest.raises(PeerError, match="no answer within"):
            await renewal._ask(tunnel)
    assert silent.taken == 1, "what waits is not asked for again"
    renewal.answered(tunnel, late)
    for asked_nothing in (other, tunnel):
        with pytest.raises(PeerError, match="nobody asked for"):
            renewal.answered(asked_nothing, late)
    with pytest.raises(PeerError, match="no answer within"):
        await renewal._ask(tunnel)
    assert silent.taken == 2
    async with trio.open_nursery() as nursery:
        # One that is late is as good for the same request, asked again.
        nursery.start_soon(_refused_by, renewal, tunnel)
        await trio.testing.wait_all_tasks_blocked()
        renewal.answered(tunnel, late)


async def test_a_certificate_that_another_tunnel_was_asked_for_counts_and_its_refusal_does_not(
    renewal: Renewal, autojump_clock: trio.testing.MockClock
) -> None:
    tunnels = [cast(Tunnel, _SilentTunnel()) for _ in range(3)]
    for tunnel in tunnels[:2]:
        with pytest.raises(PeerError, match="no answer within"):
            await renewal._ask(tunnel)
    issued = Renewed(certificate_pem="of the one request", renew_in=1.0)

    async def ask() -> None:
        assert await renewal._ask(tunnels[2]) == issued

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        renewal.answered(tunnels[0], RenewRefused(reason="unavailable", message=""))
        renewal.answered(tunnels[1], issued)


async def _refused_by(renewal: Renewal, tunnel: Tunnel) -> None:
    with pytest.raises(RefusedError, match="the gateway refuses"):
        await renewal._ask(tunnel)
