"""`ravenctl events`: sentences for lines that the daemons really write."""

import json
from pathlib import Path

from raven.cli.events import sentence
from raven.status import Happening
from tests.cli.daemon import ravenctl
from tests.daemons import loopback


def _happening(what: str, **details: str) -> Happening:
    return Happening(time=0.0, level="info", area="x", what=what, details=details)


def test_a_sentence_or_the_line_as_it_is() -> None:
    connected = _happening("node connected", node="shop-1", address="192.0.2.1:5", software="1")
    assert sentence(connected) == "node shop-1 connected from 192.0.2.1:5, raven 1"
    assert sentence(_happening("node connected", node="shop-1")) == "node connected  node=shop-1"
    assert sentence(_happening("something new", a="1", b="{a}")) == "something new  a=1 b={a}"
    assert sentence(_happening("stopped")) == "stopped"


async def test_what_happened_to_real_daemons(tmp_path: Path) -> None:
    net = loopback(tmp_path)
    async with net.gateway() as gateway:
        await net.join("shop-1")
        async with net.agent("shop-1") as agent:
            await gateway.connected("shop-1")
            ran = await ravenctl("--socket", agent.socket, "events")
            assert f"connected to gateway gw-1 at {net.agents}" in ran.out
            assert await agent.stop() == 0
        await gateway.connected("shop-1", yes=False)
        ran = await ravenctl("--socket", gateway.socket, "events")
        assert ran.code == 0
        said = [line[21:] for line in ran.out.splitlines()]
        assert any(line.startswith("node shop-1 joined, from 127.0.0.1:") for line in said)
        assert any(line.startswith("node shop-1 connected from 127.0.0.1:") for line in said)
        assert said[-1].startswith("node shop-1 is gone: ")
        newest = await ravenctl("--socket", gateway.socket, "events", "-m", "1", "-o", "json")
        (last,) = json.loads(newest.out)
        assert (last["what"], last["details"]["node"]) == ("node disconnected", "shop-1")
