"""The lab itself, with plain programs: its wires, its NAT, and that it leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import leftovers, programs, wires
from tests.lab.errors import LabError
from tests.lab.waiting import wait_until
from tests.lab.world import World

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


def test_a_site_reaches_the_cloud_through_its_nat(world: World) -> None:
    programs.ping(world.sites["a"].machine, wires.CLOUD)
    programs.ping(world.sites["b"].machine, wires.CLOUD)


def test_the_cloud_can_dial_no_site(world: World) -> None:
    site = world.sites["a"]
    programs.node_exporter(site.machine)
    local = site.machine.run("curl", "-sS", "http://127.0.0.1:9100/metrics")
    assert 'nodename="site-a"' in local.out
    for address in (wires.SITE, site.nat_address):
        answer = world.cloud.run("curl", "-sS", "-m", "1", f"http://{address}:9100/metrics", check=False)
        assert answer.code in (7, 28), answer  # could not connect, or timed out


def test_pods_reach_their_host_and_nobody_else(world: World) -> None:
    site = world.sites["b"]
    programs.ping(site.pod, "10.42.2.1")
    programs.ping(site.pod, "fd42:0:0:2::1")
    for address in (wires.pod_address(0), wires.pod_address6(0), wires.pod_address(1)):
        with pytest.raises(LabError, match="cannot ping"):
            programs.ping(site.pod, address, count=1)


def test_a_pulled_uplink_comes_back(world: World) -> None:
    machine = world.sites["a"].machine
    world.set_uplink("a", up=False)
    assert machine.run("ping", "-c1", "-W1", wires.CLOUD, check=False).code != 0
    world.set_uplink("a", up=True)
    programs.ping_until(machine, wires.CLOUD, seconds=5)


def test_a_socket_made_inside_stays_there(world: World) -> None:
    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", 9999), timeout=5)

    with world.sites["a"].machine.inside(lambda: socket.create_server(("127.0.0.1", 9999))) as server:
        with world.sites["a"].machine.inside(connect):
            pass
        with pytest.raises(ConnectionRefusedError):
            world.cloud.inside(connect)
        assert server.fileno() >= 0


def test_ssh_iperf_and_nginx_run_in_it(world: World, tmp_path: Path) -> None:
    site = world.sites["a"]
    server = programs.sshd(site.machine)
    assert site.machine.run(*server.client("127.0.0.1"), "hostname").out == "site-a\n"
    programs.iperf_server(site.pod)
    assert programs.iperf(site.machine, site.pod_address, seconds=1).gigabits > 0
    (tmp_path / "page").write_text("hello")
    tmp_path.chmod(0o755)
    programs.nginx(site.machine, tmp_path)
    assert site.machine.run("curl", "-sS", "http://127.0.0.1:8080/page").out == "hello"


def test_a_program_that_does_not_start_says_why(world: World) -> None:
    with pytest.raises(LabError, match="ended with"):
        world.cloud.start("sh", "-c", "echo no such luck; exit 3", name="luckless").ready(1)


def test_nothing_is_left_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), World() as world:  # noqa: PT012
        world.cloud.start("sh", "-c", "setsid sleep 60 & exec sleep 60")
        leftovers.WIREGUARD.mkdir(exist_ok=True)
        (leftovers.WIREGUARD / f"{world.cloud.interface}.sock").touch()
        raise ZeroDivisionError
    assert leftovers.found(world.prefix) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing_that_clean_cannot_remove(number: signal.Signals) -> None:
    code = (
        "from tests.lab.world import World\n"
        "with World() as world:\n"
        "    world.cloud.start('sleep', '60')\n"
        "    print(world.prefix, flush=True)\n"
        "    __import__('time').sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as builder:
        assert builder.stdout is not None
        prefix = builder.stdout.readline().strip()
        assert leftovers.found(prefix)
        os.kill(builder.pid, number)
        assert builder.wait(20) != 0
    if number == signal.SIGKILL:
        assert leftovers.found(prefix)
        subprocess.run([sys.executable, "-m", "tests.lab", "clean"], check=True, stdout=subprocess.DEVNULL)
    assert leftovers.found(prefix) == []


def test_waiting_is_bounded_and_says_for_what() -> None:
    with pytest.raises(LabError, match="waiting for the moon"):
        wait_until(lambda: False, what="the moon", seconds=0.1)
