"""The gateway's command line: the first start on a terminal, tokens, help."""

import os
import pty
import re
import select
import signal
import subprocess
from pathlib import Path

import pytest
import trio

from gateway.options import GatewayOptions
from raven.config import fields
from tests.daemons import AGENT, GATEWAY, Loopback, command, loopback


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


def _on_terminal(net: Loopback, until: str, then: list[str] | None = None) -> tuple[int, str, str]:
    """Runs the gateway on a terminal until it has printed `until`, and a command meanwhile.

    Gives the gateway's exit code, what it printed, and what the command did.
    """
    ours, theirs = pty.openpty()
    arguments = [*net.options(), "--socket", net.directory / "s", "--metrics-listen", "off"]
    with subprocess.Popen(
        [*GATEWAY, "run", *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        did = ""
        try:
            out = _read(ours, until)
            if then is not None:
                words = re.search(r"raven-agent join (.*?)\n *(--token \S+)", out, re.DOTALL)
                assert words is not None, out
                told = f"{words[1]} {words[2]}".replace("\\", "").replace("NAME", "shop-1").split()
                did = subprocess.run([*then, *told], capture_output=True, text=True, check=False).stdout
            process.send_signal(signal.SIGTERM)
            out += _read(ours, "stopped")
            process.wait(10)
        finally:
            process.kill()
            os.close(ours)
    return process.returncode, out, did


def _read(terminal: int, until: str) -> str:
    """What appears up to `until`, as plain text; a failed test when that does not come."""
    out = ""
    while until not in out:
        ready, _, _ = select.select([terminal], [], [], 20)
        assert ready, f"{until!r} did not appear: {out}"
        out += os.read(terminal, 65536).decode()
    return re.sub(r"\x1b\[[0-9;]*m", "", out).replace("\r\n", "\n")


async def test_the_first_start_on_a_terminal_tells_how_to_join(net: Loopback) -> None:
    join = [*AGENT, "join", "--state-dir", str(net.directory / "shop-1")]
    code, out, joined = await trio.to_thread.run_sync(_on_terminal, net, "ready", join)
    assert code == 0, out
    state = net.directory / "shop-1"
    assert joined == f"joined cluster test as node shop-1; next: raven-agent run --state-dir {state}\n"
    code, out, _ = await trio.to_thread.run_sync(_on_terminal, net, "ready")
    assert code == 0
    assert "raven1." not in out  # a node has joined: no more tokens on the screen


async def test_a_token_is_all_that_is_printed(net: Loopback) -> None:
    async with net.gateway():
        token = await net.token("--node", "shop-1", "--ttl", "5m", "--reusable")
    assert re.fullmatch(r"raven1\.[\w-]+\.[\w-]+\.[\w-]+", token)


async def test_tokens_that_cannot_be(net: Loopback, tmp_path: Path) -> None:
    for arguments, code, words in (
        (("--state-dir", tmp_path / "absent"), 1, "`raven-gateway run` makes it"),
        (("--state-dir", tmp_path, "--ttl", "soon"), 2, "--ttl soon: expected a number and s, m, h or d"),
    ):
        ran = await command(GATEWAY, "token", "create", *arguments)
        assert (ran.code, ran.out) == (code, "")
        assert words in ran.err


async def test_help_lists_every_option() -> None:
    ran = await command(GATEWAY, "run", "--help")
    assert ran.code == 0
    for field in fields(GatewayOptions):
        assert field.flag in ran.out
    assert "Exit codes" in ran.out
