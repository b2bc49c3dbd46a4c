"""Where no UDP passes the tunnel carries packets, and gives them back when UDP passes again.

cloud-pod ── cloud ══ WireGuard in TLS ══ nat-a (drops UDP) ── site-a ── pod-a
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import Lab
from tests.lab import programs, wires
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

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


def relays(lab: Lab) -> bool:
    problems = lab.agents["a"].ctl_json("status")["problems"]
    return "packets go through the tunnel" in " ".join(problems) and "through the tunnel" in way(lab)


def test_a_transfer_goes_on_when_udp_ends_and_when_it_is_back(lab: Lab) -> None:
    pod = lab.world.cloud_pod
    programs.ping_until(pod, wires.pod_address(1), seconds=20)
    with ThreadPoolExecutor() as pool:
        # One TCP connection through both changes; iperf3 fails when it breaks.
        transfer = pool.submit(programs.iperf, pod, wires.pod_address(1), seconds=70)
        connections = ("ss", "-Htn", "state", "established", "dport = :5201")
        wait_until(lambda: len(pod.run(*connections).out.splitlines()) == 2, what="iperf3", seconds=5)
        with no_udp(lab):
            wait_until(lambda: relays(lab), what="packets to go through the tunnel", seconds=45)
            programs.ping_until(lab.a.pod, wires.pod_address(0), seconds=5)
        wait_until(lambda: not relays(lab), what="UDP again", seconds=45)
        assert transfer.result().gigabits > 0.1
    programs.ping(lab.a.pod, wires.pod_address(0))


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
