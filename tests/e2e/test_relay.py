"""Where no UDP passes the tunnel carries packets, and gives them back when UDP passes again.

cloud-pod ── cloud ══ WireGuard in TLS ══ nat-a (drops UDP) ── site-a ── pod-a
"""

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import Lab
from tests.lab import programs, wires
from tests.lab.shell import Shell
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

ECHO_PORT = 7000
ECHO_SERVER = f"""
import socket, subprocess
with socket.create_server(("", {ECHO_PORT})) as server:
    while True:
        connection, _ = server.accept()
        subprocess.Popen(["cat"], stdin=connection, stdout=connection)
        connection.close()
"""

RULES = """
table ip no_udp {
    chain through {
        type filter hook forward priority filter;
        meta l4proto udp counter drop
    }
}
"""


@contextlib.contextmanager
def no_udp(lab: Lab) -> Iterator[None]:
    lab.a.nat.run("nft", "-f", "-", text=RULES)
    try:
        yield
    finally:
        lab.a.nat.run("nft", "delete", "table", "ip", "no_udp")


def way(lab: Lab) -> str:
    """What the gateway's status says of the way of site-a's packets."""
    return str(lab.gateway.nodes()["site-a"]["packets"]["detail"])


def in_vain(lab: Lab) -> bool:
    """Sends something: a lane that nobody uses is hardly watched."""
    return bool(lab.world.cloud_pod.run("ping", "-c1", "-W1", wires.pod_address(1), check=False).out)


def relays(lab: Lab) -> bool:
    problems = lab.agents["a"].ctl_json("status")["problems"]
    return "packets go through the tunnel" in " ".join(problems) and "through the tunnel" in way(lab)


def test_connections_live_through_the_end_of_udp_and_its_return(lab: Lab) -> None:
    cloud, pod = lab.world.cloud_pod, wires.pod_address(1)
    programs.ping_until(cloud, pod, seconds=20)
    lab.a.pod.start(sys.executable, "-c", ECHO_SERVER, name="echo").ready(ECHO_PORT)
    with Shell(cloud, "nc", "-N", pod, str(ECHO_PORT)) as shell, ThreadPoolExecutor() as pool:
        assert shell.ask("by UDP", seconds=10) == "by UDP"
        with no_udp(lab):
            wait_until(lambda: in_vain(lab) and relays(lab), what="packets in the tunnel", seconds=60)
            assert shell.ask("through the tunnel", seconds=10) == "through the tunnel"
            transfer = pool.submit(programs.iperf, cloud, pod, seconds=50)
            connections = ("ss", "-Htn", "state", "established", "dport = :5201")
            wait_until(lambda: len(cloud.run(*connections).out.splitlines()) == 2, what="iperf3", seconds=10)
        wait_until(lambda: not relays(lab), what="UDP again", seconds=45)
        assert shell.ask("by UDP again", seconds=10) == "by UDP again"
        assert min(transfer.result().seconds[-3:]) > 0, "it goes on as well"
    wait_until(lambda: way(lab) == "", what="the gateway to see it", seconds=15)


def test_packets_pass_from_the_start(lab: Lab) -> None:
    agent = lab.agents["a"]
    programs.iperf_server(lab.world.cloud_pod)
    assert agent.stop(15) == 0
    with no_udp(lab):
        agent.start()
        programs.ping_until(lab.a.pod, wires.pod_address(0), seconds=25)
        programs.ping_until(lab.a.pod, wires.pod_address6(0), seconds=5)
        lab.gateway.wait_for("site-a", seconds=15)
        wait_until(lambda: relays(lab), what="both ends to say so", seconds=15)
        assert programs.iperf(lab.world.cloud_pod, wires.pod_address(1), seconds=2).gigabits > 0.1
        assert programs.iperf(lab.a.pod, wires.pod_address(0), seconds=2).gigabits > 0.1
        assert lab.gateway.curl("http://site-a:8080/name").out == "site-a", "beside it, streams"
