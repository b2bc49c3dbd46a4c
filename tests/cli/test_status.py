"""`ravenctl status`, of a gateway and of an agent."""

import json
import re
from pathlib import Path

from raven.status import Lane
from tests.cli.daemon import agent, daemon, gateway, node, ravenctl, ravenctl_on_terminal, up


async def test_a_gateway_that_is_well(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway(node("shop-1"))):
        ran = await ravenctl("--socket", tmp_path / "s", "status")
    assert ran.code == 0
    assert ran.out.startswith("gateway gw-1, cluster k3fx8w2q, raven 0.1.0, up 3 h\n")
    for part in ("*:443", "gateway.example.com:443", "packet lane  up 0.40 ms (3 s)", "no-certificate 2"):
        assert part in ran.out


async def test_anything_down_is_exit_code_1(tmp_path: Path) -> None:
    stale = node("shop-2", packets=up(age=60))
    off = node("shop-3", packets=Lane(state="off", detail="no TUN"))
    for snapshot, code in ((gateway(node("shop-1"), stale), 1), (gateway(off), 0)):
        async with daemon(tmp_path / "s", snapshot):
            assert (await ravenctl("--socket", tmp_path / "s", "status")).code == code
            assert (await ravenctl("--socket", tmp_path / "s", "status", "-o", "json")).code == code


async def test_an_agent_tells_what_it_met(tmp_path: Path) -> None:
    problem = "gateway gateway.example.com:443: the certificate has expired; next attempt in 12 s"
    async with daemon(tmp_path / "s", agent(Lane(state="down", evidence_age_s=7200.0, detail=problem))):
        ran = await ravenctl("--socket", tmp_path / "s", "status")
        whole = json.loads((await ravenctl("--socket", tmp_path / "s", "status", "-o", "json")).out)
    assert ran.code == 1
    assert f"{problem}\n" in ran.out
    assert "down (2 h)" in ran.out
    assert "off: no right to make network devices (CAP_NET_ADMIN)" in ran.out
    assert whole["role"] == "agent"
    assert whole["uplinks"][0]["lane"]["detail"] == problem


async def test_80_columns_hold_it(tmp_path: Path) -> None:
    nodes = [node(f"shop-berlin-{number}") for number in range(3)]
    async with daemon(tmp_path / "s", gateway(*nodes)):
        ran = await ravenctl_on_terminal("--socket", tmp_path / "s", "status")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", ran.out)
    assert max(map(len, plain.splitlines())) <= 80
    assert plain.count("up 0.40 ms (3 s)") == 7
