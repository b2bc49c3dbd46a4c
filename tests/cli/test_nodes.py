"""`ravenctl nodes`."""

import json
from pathlib import Path

from raven.status import Lane
from tests.cli.daemon import agent, daemon, gateway, node, ravenctl, ravenctl_on_terminal, up

DOWN = Lane(state="down", evidence_age_s=400.0, detail="it has no tunnel")


async def test_json_has_what_programs_count_on(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway(node("shop-1"), node("shop-2", stream=DOWN))):
        ran = await ravenctl("--socket", tmp_path / "s", "nodes", "-o", "json")
    assert ran.code == 0
    first, second = json.loads(ran.out)
    assert first["name"] == "shop-1"
    assert first["connected"] is True
    assert first["last_seen_s"] == 3.0
    assert first["rtt_ms"] == 0.4
    assert (first["stream_lane"], first["packet_lane"]) == ("up", "up")
    assert first["pod_cidrs"] == ["10.244.1.0/24", "fd00:244:1::/64"]
    assert second["connected"] is False
    assert second["stream_lane"] == "down"


async def test_a_node_without_fresh_evidence_does_not_read_connected(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway(node("shop-1", stream=up(age=70.0)))):
        ran = await ravenctl("--socket", tmp_path / "s", "nodes")
        (object,) = json.loads((await ravenctl("--socket", tmp_path / "s", "nodes", "-o", "json")).out)
    assert object["connected"] is False
    assert "stale (70 s)" in ran.out


async def test_a_pipe_gets_whole_plain_lines(tmp_path: Path) -> None:
    name = "a-node-with-a-name-that-is-much-longer-than-any-terminal-has-columns." * 3 + "example"
    async with daemon(tmp_path / "s", gateway(node(name))):
        ran = await ravenctl("--socket", tmp_path / "s", "nodes")
    heading, line = ran.out.splitlines()
    assert heading.split("  ")[0] == "NODE"
    assert line.startswith(f"{name}  up 0.40 ms (3 s)  ")
    assert line.endswith("10.244.1.0/24 fd00:244:1::/64")
    assert "\x1b" not in ran.out


async def test_a_terminal_of_80_columns(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway(node("shop-berlin-17"), node("shop-2", stream=DOWN))):
        ran = await ravenctl_on_terminal("--socket", tmp_path / "s", "nodes")
    assert "\x1b[32mup" in ran.out
    assert "10.244.1.0/24" in ran.out  # not torn apart
    assert "shop-berlin-17" in ran.out
    assert "it has no tunnel" in ran.out


async def test_an_agent_has_no_nodes(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", agent(up())):
        ran = await ravenctl("--socket", tmp_path / "s", "nodes")
    assert ran.code == 2
    assert "this is the agent of node shop-1" in ran.err


async def test_before_the_first_node(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway()):
        assert "No node has joined yet" in (await ravenctl("--socket", tmp_path / "s", "nodes")).out
        assert (await ravenctl("--socket", tmp_path / "s", "nodes", "-o", "json")).out == "[]\n"
