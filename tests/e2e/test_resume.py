"""Streams that live through trouble: a shell and a download, and what may happen to the agent's uplink.

curl, ssh ── gateway ── internet (resets, drops) ── nat-a (forgets) ── site-a (moves): agent ── nginx, sshd
"""

import contextlib
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.demo.scene import ssh_command
from tests.e2e.conftest import Lab
from tests.lab import programs, raven, wires
from tests.lab.programs import SshServer
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

MOVED = "192.168.1.77"  # another address of the same site
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
    machine = lab.a.machine
    machine.set_sysctl(ipv4__conf__all__promote_secondaries=1)
    machine.run("ip", "addr", "add", f"{MOVED}/24", "dev", "eth0")
    machine.run("ip", "addr", "del", f"{wires.SITE}/24", "dev", "eth0")
    machine.run("ip", "route", "replace", "default", "via", wires.SITE_ROUTER)


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


class Shell:
    """A remote program that answers each line with the same line."""

    def __init__(self, lab: Lab, server: SshServer) -> None:
        command = lab.world.cloud.command(*ssh_command(server, lab.a.name), "cat")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=lab.world.cloud.env
        )

    def say(self, line: str, *, seconds: float) -> float:
        """Seconds until the answer."""
        assert self.process.stdin
        assert self.process.stdout
        began = time.monotonic()
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, f"no answer to {line!r} within {seconds:g} s"
        assert self.process.stdout.readline() == line.encode() + b"\n"
        return time.monotonic() - began

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            assert self.process.wait(15) == 0
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


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
    with Shell(lab, server) as shell, ThreadPoolExecutor() as pool:
        shell.say("before", seconds=15)
        download = pool.submit(lab.download, lab.a, "--limit-rate", "4M")
        wait_until(lambda: arriving.exists() and arriving.stat().st_size > 0, what="bytes", seconds=10)
        trouble(lab)
        shell.say("after", seconds=20)
        assert download.result() == lab.digest
    wait_until(
        lambda: agent.log().count("goes on over another connection") > before, what="a resume", seconds=10
    )
    lab.gateway.wait_for("site-a", lanes=["stream_lane"])
