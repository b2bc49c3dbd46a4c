"""`raven-gateway token` and `node` on the state of a gateway that runs, and what its agents notice."""

import contextlib
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from tests.cli.daemon import RAVENCTL
from tests.daemons import AGENT, GATEWAY, Daemon, Loopback, Ran, command, loopback, until

CUT_MAX = 2.0  # seconds from the command to the end of the tunnel


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


async def _ask(net: Loopback, *words: object) -> Ran:
    return await command(GATEWAY, *words, "--state-dir", net.state)


async def _list(net: Loopback, what: str) -> list[dict[str, object]]:
    ran = await _ask(net, what, "list", "-o", "json")
    assert (ran.code, ran.err) == (0, "")
    return msgspec.json.decode(ran.out, type=list[dict[str, object]])


async def _join(net: Loopback, token: str, node: str, directory: str) -> Ran:
    return await command(
        AGENT,
        *("join", "--state-dir", net.directory / directory, "--gateway", net.agents),
        *("--node", node, "--token", "-"),
        stdin=token.encode(),
    )


async def _down(agent: Daemon, words: str) -> None:
    await until(
        agent.agent_snapshot, lambda now: words in now.uplinks[0].lane.detail, f"{words!r} in the status"
    )


async def test_tokens_are_listed_and_revoked(net: Loopback) -> None:
    async with net.gateway():
        kept, given = await net.token(), await net.token("--node", "shop-9", "--ttl", "15m")
        ids = [text.split(".")[1] for text in (kept, given)]
        listed = await _list(net, "token")
        assert {(entry["id"], entry["state"], entry["node"]) for entry in listed} == {
            (ids[0], "good", None),
            (ids[1], "good", "shop-9"),
        }
        assert all(text.split(".")[2] not in str(listed) for text in (kept, given))
        ran = await _ask(net, "token", "revoke", ids[1])
        assert (ran.code, ran.out) == (0, f"token {ids[1]} is revoked\n")
        refused = await _join(net, given, "shop-9", "shop-9")
        assert refused.code == 1
        assert "knows no such token" in refused.err
        assert (await _join(net, kept, "shop-1", "shop-1")).code == 0
        ran = await _ask(net, "token", "list")
        assert [line.split()[:2] for line in ran.out.splitlines()] == [["ID", "STATE"], [ids[0], "used"]]
        ran = await _ask(net, "token", "revoke", "nonsense", "-o", "json")
        assert (ran.code, ran.out) == (1, "")
        assert "there is no token nonsense" in ran.err


async def test_a_removed_node_is_cut_off_and_stays_out(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        await net.join("shop-2")
        async with net.agent("shop-1") as agent, net.agent("shop-2"):
            await gateway.connected("shop-1")
            await gateway.connected("shop-2")
            assert [entry["name"] for entry in await _list(net, "node")] == ["shop-1", "shop-2"]
            ran = await _ask(net, "node", "remove", "shop-1")
            done = time.monotonic()
            assert (ran.code, ran.out) == (0, "node shop-1 is removed\n")
            await until(
                gateway.gateway_snapshot,
                lambda now: [node.name for node in now.nodes] == ["shop-2"],
                "the cut",
            )
            await _down(agent, "it has to join again")
            assert time.monotonic() - done < CUT_MAX
            await gateway.refused("node-unknown")  # it dialled again, in vain
            assert (await gateway.node("shop-2")).connected
        ran = await _ask(net, "node", "remove", "shop-1")
        assert ran.code == 1
        assert "there is no node shop-1" in ran.err
    log = gateway.log.read_text()
    assert "cut off" in log
    assert "Traceback" not in log


async def test_a_replaced_node_is_cut_off(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        async with net.agent("shop-1") as agent:
            await gateway.connected("shop-1")
            token = await net.token("--node", "shop-1")
            assert (await _join(net, token, "shop-1", "new-disk")).code == 0
            with trio.fail_after(CUT_MAX):
                await _down(agent, "joined again with another certificate")
            async with net.agent("new-disk"):
                await gateway.connected("shop-1")
                await gateway.refused("certificate-replaced")


async def test_without_a_gateways_state(net: Loopback) -> None:
    for words in (("token", "list"), ("token", "revoke", "x"), ("node", "list"), ("node", "remove", "x")):
        ran = await _ask(net, *words)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith(
            f"raven-gateway: {net.state / 'registry.sqlite'}: there is no registry here"
        )


async def test_the_audit_is_verified(net: Loopback) -> None:
    async with net.gateway() as gateway:
        await net.join("shop-1")
        await _connect_and_leave(net)
        noted = await until(_noted(gateway), lambda found: found != "", "the head in the log")
        ran = await _ask(net, "audit", "verify", "-o", "json")
        assert ran.code == 0, ran.err
        told = msgspec.json.decode(ran.out, type=dict[str, object])
        assert (told["ok"], told["problem"]) == (True, "")
        assert (await _ask(net, "audit", "verify", "--seen", noted)).code == 0
        same = await command(RAVENCTL, "audit", "verify", "--state-dir", net.state, "-o", "json")
        assert (same.code, msgspec.json.decode(same.out, type=dict[str, object])) == (0, told)
        with contextlib.closing(sqlite3.connect(net.state / "registry.sqlite", timeout=5)) as file, file:
            file.execute("UPDATE audit SET asker = 'nobody' WHERE id = 2")
        ran = await _ask(net, "audit", "verify")
        assert (ran.code, ran.out.split()[0]) == (1, "1")
        assert "line 2 is not what was written" in ran.err
        ran = await command(RAVENCTL, "audit", "verify", "--state-dir", net.state)
        assert (ran.code, ran.out.split()[0]) == (1, "1")
        assert "ravenctl: the audit is not what was written: line 2" in ran.err
        ran = await _ask(net, "audit", "verify", "--seen", "x")
        assert (ran.code, ran.out) == (2, "")


async def _connect_and_leave(net: Loopback) -> None:
    host, _, port = net.oam.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"CONNECT shop-1:9100 HTTP/1.1\r\nHost: shop-1:9100\r\n\r\n")
        with trio.fail_after(10):
            assert b" 503 " in await stream.receive_some()


def _noted(gateway: Daemon) -> Callable[[], Awaitable[str]]:
    async def read() -> str:
        found = re.search(r'"seen": "([0-9]+:[0-9a-f]{64})"', gateway.log.read_text())
        return found[1] if found else ""

    return read
