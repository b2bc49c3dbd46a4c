"""`ravenctl doctor` on loopback: real daemons, each hop broken for real, and the verdict over it."""

import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from raven.pki.ca import Authority
from raven.pki.csr import load_key
from raven.pki.renewal import GRACE, LEAF_LIFE
from tests.cli.daemon import RAVENCTL, Ran, ravenctl, ravenctl_on_terminal
from tests.daemons import GATEWAY, Daemon, Loopback, command, free_port, loopback, until
from tests.pki.material import seeded

NODE = "shop-1"


@dataclass
class Report:
    """What `doctor -o json` said."""

    code: int
    verdict: dict[str, Any]
    findings: list[dict[str, Any]]

    def of(self, hop: str) -> list[dict[str, Any]]:
        return [finding for finding in self.findings if finding["hop"] == hop]

    @property
    def why(self) -> str:
        return str(self.verdict["why"])


def report(ran: Ran) -> Report:
    assert ran.err == ""
    told = json.loads(ran.out)
    for finding in told["findings"]:
        assert finding["said"]
        assert finding["result"] != "broken" or finding["next"], finding
    return Report(ran.code, told["verdict"], told["findings"])


async def on_agent(here: Loopback, daemon: Daemon | None, *options: object) -> Report:
    socket = daemon.socket if daemon is not None else here.directory / "absent.sock"
    arguments = ["--socket", socket, "doctor", "--state-dir", here.directory / NODE, "-o", "json", *options]
    return report(await ravenctl(*map(str, arguments)))


async def on_gateway(here: Loopback, daemon: Daemon, *options: object) -> Report:
    arguments = ["--socket", daemon.socket, "doctor", "--state-dir", here.state, "-o", "json", *options]
    return report(await ravenctl(*map(str, arguments)))


@dataclass
class Site:
    """A gateway and a node that has joined, both running."""

    here: Loopback
    gateway: Daemon
    agent: Daemon
    open: int  # a port of the node that is allowed and served
    closed: int  # one that is allowed, and nobody is there


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[Site]:
    here = loopback(directory)
    served, closed = int(here.oam.rpartition(":")[2]), free_port()
    async with here.gateway() as gateway:
        await here.join(NODE)
        async with here.agent(NODE, "--allow", f"node:{served},{closed}") as agent:
            await gateway.connected(NODE)
            yield Site(here, gateway, agent, served, closed)


async def test_all_well_from_both_ends(tmp_path: Path) -> None:
    async with connected(tmp_path) as site:
        agent = await on_agent(site.here, site.agent, "--target", f"{NODE}:{site.open}")
        gateway = await on_gateway(site.here, site.gateway, "--target", f"{NODE}:{site.open}")
    for told in (agent, gateway):
        assert (told.code, told.verdict["well"], told.verdict["broken"]) == (0, True, 0)
        assert not [finding for finding in told.findings if finding["result"] == "broken"]
    for hop in ("state", "certificate", "tcp", "tls", "clock", "daemon", "tunnel", "allow", "target"):
        assert [finding["result"] for finding in agent.of(hop)] == ["ok"], hop
    assert re.search(r"up [0-9.]+ ms, last proved [0-9] s ago", agent.of("tunnel")[0]["said"])
    for hop in ("state", "certificate", "registry", "listener", "node", "target"):
        assert {finding["result"] for finding in gateway.of(hop)} == {"ok"}, hop
    assert "was answered by the target's host" in gateway.of("target")[0]["said"]


async def test_looking_changes_nothing(tmp_path: Path) -> None:
    """Not even a lock file, a copy of a damaged file or SQLite's side files."""
    async with connected(tmp_path) as site:
        await site.agent.stop()
        await site.gateway.stop()
    state = tmp_path / NODE
    (state / "agent.json").write_text("{")

    def files() -> dict[str, tuple[int, float]]:
        found = [*state.rglob("*"), *site.here.state.rglob("*")]
        return {str(path): (path.stat().st_size, path.stat().st_mtime) for path in found}

    before = files()
    told = await on_agent(site.here, None)
    absent = ["--socket", str(tmp_path / "absent.sock")]
    gateway = report(await ravenctl(*absent, "doctor", "--state-dir", str(site.here.state), "-o", "json"))
    assert files() == before
    assert told.verdict["hop"] == "state"
    assert "damaged" in told.why
    assert gateway.of("registry")[0]["result"] == "ok"
    assert (gateway.verdict["hop"], gateway.code) == ("daemon", 1)


async def test_a_closed_port(tmp_path: Path) -> None:
    async with connected(tmp_path) as site:
        await site.gateway.stop()
        told = await on_agent(site.here, site.agent)
    assert (told.code, told.verdict["hop"], told.why) == (1, "tcp", "Connection refused")
    assert told.verdict["about"] == site.here.agents
    assert "start raven-gateway there" in told.verdict["next"]


async def test_an_expired_certificate(tmp_path: Path) -> None:
    here = loopback(tmp_path)
    async with here.gateway():
        await here.join(NODE)
        key = load_key((tmp_path / NODE / "node.key").read_bytes())
        ca = Authority.load(
            "test", (here.state / "ca.crt").read_bytes(), load_key((here.state / "ca.key").read_bytes())
        )
        for late, step in ((86400.0 * 3, "leave raven-agent running"), (GRACE + 86400, "raven-agent join")):
            then = time.time() - LEAF_LIFE - late
            leaf = ca.issue_node(NODE, key.public_key(), now=then, random=seeded())
            (tmp_path / NODE / "node.crt").write_text(leaf.pem)
            told = await on_agent(here, None)
            assert (told.code, told.verdict["hop"]) == (1, "certificate")
            assert f"expired {late / 86400:.0f} d ago" in told.why
            assert told.verdict["next"].startswith(step) or f"then `{step}" in told.verdict["next"]


async def test_no_tunnel(tmp_path: Path) -> None:
    async with connected(tmp_path) as site:
        removed = await command(GATEWAY, "node", "remove", "--state-dir", site.here.state, NODE)
        assert removed.code == 0, removed.err
        await until(site.agent.agent_snapshot, lambda now: now.uplinks[0].lane.state == "down", "the cut")
        told = await on_agent(site.here, site.agent)
        assert (told.code, told.verdict["hop"]) == (1, "tunnel"), told
        assert "`raven-agent join --force` with a new token" in told.verdict["next"]
        assert told.of("tls")[0]["result"] == "ok", "the way to the gateway is well"
        asked = await on_gateway(site.here, site.gateway, "--target", f"{NODE}:{site.open}")
        assert (asked.code, asked.verdict["hop"], asked.verdict["about"]) == (1, "node", NODE)


async def test_a_node_whose_agent_does_not_run(tmp_path: Path) -> None:
    async with connected(tmp_path) as site:
        await site.agent.stop()
        await site.gateway.connected(NODE, yes=False)
        there = await on_gateway(site.here, site.gateway)
        here = await on_agent(site.here, None)
    assert (there.code, there.verdict["hop"], there.verdict["about"]) == (1, "node", NODE)
    assert "`ravenctl doctor` there" in there.verdict["next"]
    assert (here.code, here.verdict["hop"]) == (1, "daemon")
    assert "systemctl start raven-agent" in here.verdict["next"]


async def test_a_node_that_missed_a_new_ca_still_finds_its_gateway(tmp_path: Path) -> None:
    """While both CAs are trusted, the gateway shows the one that this node knows."""
    async with connected(tmp_path) as site:
        await site.agent.stop()
        before = (site.here.state / "ca.crt").read_bytes()
        assert (await command(GATEWAY, "ca", "rotate", "--state-dir", site.here.state)).code == 0

        async def shown() -> bytes:
            return (site.here.state / "ca.crt").read_bytes()

        await until(shown, lambda now: now != before, "the new CA")
        # The file is there a moment before the listener has it.
        await until(
            lambda: on_agent(site.here, None), lambda told: told.verdict["hop"] == "daemon", "a known gateway"
        )
        here = await on_agent(site.here, None)
    assert [finding["result"] for finding in here.of("tls")] == ["ok"]


async def test_a_target_that_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as site:
        told = await on_agent(site.here, site.agent, "--target", "node:22")
        asked = await on_gateway(site.here, site.gateway, "--target", f"{NODE}:22")
        behind = await on_gateway(site.here, site.gateway, "--target", f"192.0.2.7.via.{NODE}:502")
    for each in (told, asked, behind):
        assert (each.code, each.verdict["hop"]) == (1, "allow")
        assert "--allow" in each.verdict["next"]
    assert "does not permit node:22" in told.why
    assert "403 not-allowed" in asked.why
    assert "192.0.2.7:502" in behind.why


async def test_a_target_where_nobody_is(tmp_path: Path) -> None:
    async with connected(tmp_path) as site:
        told = await on_agent(site.here, site.agent, "--target", f"{NODE}:{site.closed}")
        asked = await on_gateway(site.here, site.gateway, "--target", f"{NODE}:{site.closed}")
    for each in (told, asked):
        assert (each.code, each.verdict["hop"]) == (1, "target")
        assert "Connection refused" in each.why
    assert told.of("allow")[0]["result"] == "ok"
    assert asked.why.startswith("502 unreachable")


async def test_a_node_that_never_joined(tmp_path: Path) -> None:
    here = loopback(tmp_path)
    async with here.gateway() as gateway:
        told = await on_gateway(here, gateway, "--target", "shop-9:9100")
    assert (told.code, told.verdict["hop"], told.verdict["about"]) == (1, "node", "shop-9")


async def test_another_gateway_than_the_one_that_was_pinned(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here, other = loopback(tmp_path), loopback(tmp_path / "other")
    async with here.gateway(), other.gateway():
        await here.join(NODE)
        told = await on_agent(here, None, "--gateway", other.agents)
    assert (told.code, told.verdict["hop"]) == (1, "tls")
    assert "this node trusts" in told.why


async def test_something_that_is_no_gateway(tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        there = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        arguments = ["--socket", tmp_path / "absent", "doctor", "--gateway", there, "-o", "json"]
        told = report(await ravenctl(*map(str, arguments)))
        nursery.cancel_scope.cancel()
    assert (told.code, told.verdict["hop"], told.why) == (1, "tls", "the other end does not speak TLS")


async def test_keys_that_others_may_read(tmp_path: Path) -> None:
    here = loopback(tmp_path)
    async with here.gateway():
        await here.join(NODE)
    (tmp_path / NODE / "node.key").chmod(0o644)
    told = await on_agent(here, None)
    assert (told.verdict["hop"], told.verdict["about"]) == ("state", str(tmp_path / NODE / "node.key"))
    assert told.verdict["next"].startswith("chmod 600 ")


async def test_where_there_is_nothing_it_cannot_run(tmp_path: Path) -> None:
    ran = await ravenctl("--socket", tmp_path / "absent", "doctor", "--target", "node:1")
    assert (ran.code, ran.out) == (2, "")
    assert "--state-dir" in ran.err
    for wrong in (["--gateway", "no-port"], ["--target", "no-port", "--gateway", "127.0.0.1:1"]):
        ran = await ravenctl("--socket", tmp_path / "absent", "doctor", *wrong)
        assert ran.code == 2, wrong
        assert "Traceback" not in ran.err


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody else")
async def test_who_may_see_nothing_is_told_so() -> None:
    """Not "all well", and not "broken" either."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *RAVENCTL]
    with tempfile.TemporaryDirectory(prefix="rvd-") as made:  # pytest's are closed to others on the way there
        os.chmod(made, 0o755)
        here = loopback(Path(made))
        async with here.gateway() as gateway:
            ran = await command(nobody, "doctor", "--socket", gateway.socket, "--state-dir", here.state)
    assert (ran.code, ran.out) == (2, "")
    assert "use sudo" in ran.err
    assert "Permission denied" in ran.err


async def test_80_columns_hold_it_and_pipes_get_no_colours(tmp_path: Path) -> None:
    arguments = ["--socket", str(tmp_path / "absent"), "doctor", "--gateway", f"127.0.0.1:{free_port()}"]
    piped = await ravenctl(*arguments)
    seen = await ravenctl_on_terminal(*arguments)
    assert "\x1b" not in piped.out
    assert "\x1b[1;31mbroken" in seen.out
    assert re.sub(r"\x1b\[[0-9;]*m", "", seen.out) == piped.out
    assert max(map(len, piped.out.splitlines())) <= 80
    assert "verdict: the first broken hop is tcp 127.0.0.1:" in piped.out
    assert "\ntry:     nothing accepts connections" in piped.out
    assert piped.code == 1
