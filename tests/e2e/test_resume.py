"""Streams that live through trouble: a shell and a download, and what may happen to the agent's uplink.

curl, ssh ── gateway ── internet (resets, drops) ── nat-a (forgets) ── site-a (moves): agent ── nginx, sshd
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.demo.scene import ssh_command
from tests.e2e.conftest import Lab
from tests.lab import programs, raven, wires
from tests.lab.programs import SshServer
from tests.lab.shell import Shell
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

PORT = raven.AGENTS.rpartition(":")[2]


@pytest.fixture(scope="module")
def server(lab: Lab) -> SshServer:
    return programs.sshd(lab.a.machine)


def the_nat_forgets(lab: Lab) -> None:
    lab.a.nat.run("conntrack", "-F")


def a_middlebox_resets(lab: Lab) -> None:
    with filtered(lab, "reject with tcp reset"):
        time.sleep(1.5)  # whatever the agent sends meanwhile is answered with a reset


def everything_vanishes(lab: Lab) -> None:
    with filtered(lab, "drop"):
        time.sleep(4)  # longer than it takes to notice


def the_address_changes(lab: Lab) -> None:
    wires.move_site(lab.a.machine, wires.SITE, wires.SITE_MOVED)


def another_way_is_better(lab: Lab) -> None:
    """The way there is works on; the new one is preferred."""
    machine = lab.a.machine
    machine.run("ip", "addr", "add", f"{wires.SITE}/24", "dev", "eth0")
    machine.run("ip", "route", "replace", "default", "via", wires.SITE_ROUTER, "src", wires.SITE)


@contextlib.contextmanager
def filtered(lab: Lab, verdict: str) -> Iterator[None]:
    """The internet does that to whatever goes between agents and gateway."""
    rules = f"""
table ip trouble {{
    chain through {{
        type filter hook forward priority filter;
        tcp dport {PORT} {verdict}
        tcp sport {PORT} {verdict}
    }}
}}
"""
    lab.world.internet.run("nft", "-f", "-", text=rules)
    try:
        yield
    finally:
        lab.world.internet.run("nft", "delete", "table", "ip", "trouble")


@pytest.mark.parametrize(
    "trouble",
    [
        the_nat_forgets,
        a_middlebox_resets,
        everything_vanishes,
        the_address_changes,
        another_way_is_better,
    ],
)
def test_a_shell_and_a_download_notice_a_pause(
    lab: Lab, server: SshServer, trouble: Callable[[Lab], None]
) -> None:
    lab.gateway.wait_for("site-a", lanes=["stream_lane"])
    agent = lab.agents["a"]
    before = agent.log().count("goes on over another connection")
    arriving = lab.arriving(lab.a)
    arriving.unlink(missing_ok=True)
    command = (*ssh_command(server, lab.a.name), "cat")
    with Shell(lab.world.cloud, *command) as shell, ThreadPoolExecutor() as pool:
        assert shell.ask("before", seconds=15) == "before"
        download = pool.submit(lab.download, lab.a, "--limit-rate", "4M")
        wait_until(lambda: arriving.exists() and arriving.stat().st_size > 0, what="bytes", seconds=10)
        trouble(lab)
        assert shell.ask("after", seconds=20) == "after"
        assert download.result() == lab.digest
    wait_until(
        lambda: agent.log().count("goes on over another connection") > before, what="a resume", seconds=10
    )
    lab.gateway.wait_for("site-a", lanes=["stream_lane"])
