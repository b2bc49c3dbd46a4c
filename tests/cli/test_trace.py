"""`ravenctl trace` against real daemons: the way of a request, whole and broken."""

import json
import os
from pathlib import Path

from tests.cli.daemon import ravenctl
from tests.daemons import echo, loopback


async def test_every_hop_has_its_time_and_its_identity(tmp_path: Path) -> None:
    net = loopback(tmp_path)
    async with net.gateway() as gateway, echo() as port:
        await net.join("shop-1")
        async with net.agent("shop-1", "--allow", f"node:{port}") as agent:
            await gateway.connected("shop-1")
            ran = await ravenctl("--socket", gateway.socket, "trace", f"shop-1:{port}")
            assert ran.code == 0, ran
            lines = [line.split() for line in ran.out.splitlines()]
            assert [line[1] for line in lines[1:]] == ["gateway", "node", "target"]
            assert "raven://test/gateway/gw-1" in ran.out
            assert "raven://test/node/shop-1" in ran.out
            told = json.loads(
                (await ravenctl("--socket", gateway.socket, "trace", f"shop-1:{port}", "-o", "json")).out
            )
            assert [hop["rtt_ms"] is not None for hop in told["hops"]] == [False, True, True]
            assert (await gateway.node("shop-1")).streams == 0

            refused = await ravenctl("--socket", gateway.socket, "trace", "shop-1:1")
            assert refused.code == 1
            assert "broken" in refused.out
            assert "allow list does not permit" in refused.out

            elsewhere = await ravenctl("--socket", agent.socket, "trace", "shop-1")
            assert (elsewhere.code, "a trace starts at a gateway" in elsewhere.err) == (2, True)

            no_port = await ravenctl("--socket", gateway.socket, "trace", "shop-1")
            assert (no_port.code, len(no_port.out.splitlines())) == (0, 3)
            assert await agent.stop() == 0
        await gateway.connected("shop-1", yes=False)
        gone = await ravenctl("--socket", gateway.socket, "trace", f"shop-1:{port}")
        assert gone.code == 1
        assert "it has no tunnel; last heard" in gone.out
        stranger = await ravenctl("--socket", gateway.socket, "trace", "nobody:1")
        assert stranger.code == 2
        assert "no node named nobody has joined" in stranger.err
        assert (await gateway.stop()) == 0
    assert (tmp_path / "gateway.log").read_text().count('"method": "TRACE"') == 3


async def test_the_gateways_policy_judges_who_traces(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    net = loopback(tmp_path)
    async with echo() as port:
        policy.write_text(f'[[permit]]\nwho = ["uid:{os.getuid() + 1}"]\ntargets = ["*:{port}"]\n')
        async with net.gateway("--policy", policy) as gateway:
            await net.join("shop-1")
            async with net.agent("shop-1", "--allow", f"node:{port}"):
                await gateway.connected("shop-1")
                ran = await ravenctl("--socket", gateway.socket, "trace", f"shop-1:{port}")
                assert ran.code == 1, ran
                assert f"policy does not permit shop-1:{port} to uid:{os.getuid()}" in " ".join(
                    ran.out.split()
                )
    line = next(line for line in (tmp_path / "gateway.log").read_text().splitlines() if '"TRACE"' in line)
    assert '"not-permitted"' in line
    assert f'"asker": "uid:{os.getuid()} at unix pid ' in line


async def test_what_is_no_target(tmp_path: Path) -> None:
    for arguments in (["shop-1:"], ["shop-1:http"], ["shop-1:70000"], [":80"], ["shop-1", "--host", "x"]):
        ran = await ravenctl("--socket", tmp_path / "s", "trace", *arguments)
        assert (ran.code, "expected NODE or NODE:PORT" in ran.err) == (2, True), arguments
