"""docs/oam.md: its table of reasons is the code's, its rules parse, its commands and snippets run."""

import re
import shlex
import shutil
import subprocess
import tomllib
from functools import partial
from pathlib import Path

import pytest
import trio

from raven.oam.permits import DEFAULT_POLICY
from raven.oam.policy import DEFAULT_ALLOW, Rule
from raven.oam.refusal import STATUS
from tests.gateway.oam.site import curl, read_until, site, target

DOCUMENT = (Path(__file__).parents[2] / "docs" / "oam.md").read_text()
ENTRY = "127.0.0.1:10264"


def section(first: str, last: str) -> str:
    found = re.search(f"{re.escape(first)}(.*?){re.escape(last)}", DOCUMENT, re.DOTALL)
    assert found is not None, f"no section between {first!r} and {last!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of a table, without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]


def test_every_reason_stands_there_with_its_status() -> None:
    table = rows(section("<!-- reasons of raven.oam.refusal -->", "<!-- end of reasons -->"))
    assert {cells[0].strip("`"): int(cells[1]) for cells in table} == STATUS
    assert [cells[0].strip("`") for cells in table] == list(STATUS), "in the order of the code"
    assert all(len(cells) == 4 and all(cells) for cells in table)


def test_the_rules_that_it_shows_parse() -> None:
    allowing = section("## What a node allows", "## When it is refused")
    line = next(line for line in allowing.splitlines() if line.startswith("    allow = "))
    rules = tomllib.loads(line.strip())["allow"]
    hosts = [host for row in rows(allowing) for host in re.findall("`([^`]+)`", row[0])]
    for rule in [*rules, *(f"{host}:80" for host in hosts)]:
        Rule.parse(rule)
    assert all(f"`{rule}`" in allowing for rule in DEFAULT_ALLOW)


def test_the_default_policy_stands_there() -> None:
    shown = section("<!-- default policy -->\n```toml\n", "```")
    assert shown == DEFAULT_POLICY


async def test_its_curl_commands_run() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await read_until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")

    commands = re.findall(r"`(curl [^`]+)`", section("## How to ask", "- **CONNECT**"))
    assert len(commands) == 7
    async with site(nodes=["shop-17"], allow=["127.0.0.1:*", "node:*"]) as s, target(answer) as port:
        s.addresses["10.0.0.7"] = ["shop-17"]
        for command in commands:
            here = command.replace(ENTRY, s.address).replace("9100/", f"{port}/")
            here = re.sub(r"192\.168\.1\.5([^/]*)/", rf"127.0.0.1\1:{port}/", here)
            ran = await curl("-f", *shlex.split(here)[1:])
            assert (ran.code, ran.err) == (0, ""), here
            assert ran.out == b"ok\n" or b"shop-17" in ran.out, here


async def test_its_ssh_command_comes_through() -> None:
    """A target that greets as sshd does; that ssh runs a shell over it is `tests.e2e.test_oam`'s."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-raven-test\r\n")
        await sent.send(bytes(await stream.receive_some()))

    if not (shutil.which("ssh") and shutil.which("nc")):
        pytest.skip("ssh or nc is not installed")
    sent, received = trio.open_memory_channel[bytes](1)
    command = next(line for line in section("### ssh", "Or once").splitlines() if "ProxyCommand" in line)
    async with site(nodes=["shop-17"], allow=["node:*"]) as s, target(greet) as port:
        words = shlex.split(command.replace(ENTRY, s.address))
        ssh = [*words[:1], "-F", "/dev/null", "-p", str(port), *words[1:], "true"]
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(trio.run_process, ssh, check=False, capture_stderr=True))
                assert (await received.receive()).startswith(b"SSH-2.0-OpenSSH")
                nursery.cancel_scope.cancel()  # ssh waits for keys that never come


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_its_configuration(tmp_path: Path) -> None:
    """That Prometheus scrapes both sites with these keys is `tests.e2e.test_oam`'s."""
    (tmp_path / "prometheus.yml").write_text(section("```yaml\n", "```"))
    ran = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
