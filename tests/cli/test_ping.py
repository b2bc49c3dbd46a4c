"""`ravenctl ping`."""

import json
from pathlib import Path

from tests.cli.daemon import daemon, gateway, ravenctl


async def test_both_lanes_answer(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway()):
        ran = await ravenctl("--socket", tmp_path / "s", "ping", "shop-1", "-c", "2", "-i", "0")
        report = json.loads(
            (await ravenctl("--socket", tmp_path / "s", "ping", "shop-1", "-c1", "-o", "json")).out
        )
    assert ran.code == 0
    assert ran.out.splitlines() == ["shop-1: stream lane 0.41 ms; packet lane 0.62 ms"] * 2
    assert report["stream_rtt_ms"] == 0.41
    assert report["packet_rtt_ms"] == 0.62
    assert len(report["pings"]) == 1


async def test_a_lane_without_an_answer_is_exit_code_1(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway()):
        ran = await ravenctl("--socket", tmp_path / "s", "ping", "shop-2", "-c", "1")
    assert ran.code == 1
    assert "stream lane down: no tunnel; packet lane off" in ran.out


async def test_an_unknown_node_is_a_usage_error(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway()):
        ran = await ravenctl("--socket", tmp_path / "s", "ping", "nobody", "-c", "1")
    assert ran.code == 2
    assert "no node named nobody has joined this gateway" in ran.err
