"""What breaks in the middle: an end is seen at the other side, and what worked before works again."""

import signal

from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.raven import Raven
from tests.e2e_kube.terminal import Running
from tests.lab.waiting import wait_until

# Seconds in which kubectl must have ended; no timeout of Kubernetes is as short. With what status is its own
# affair: without Raven, too, a kubectl of 1.20 takes a connection that breaks for the end of the command.
NOTICED = 20.0


def works(way: ApiServer) -> bool:
    return way.kubectl("exec", "ticker-site-a", "--", "true", check=False).code == 0


def test_an_agent_that_starts_anew_ends_what_the_killed_one_carried(way: ApiServer, raven_up: Raven) -> None:
    """The gateway waits for a lost agent, whose streams would go on; a new one knows nothing of them."""
    agent = raven_up.agents["a"]
    with Running(way, "exec", "-i", "ticker-site-a", "--", "sh", "-c", "echo up; cat") as command:
        command.until("up\n")
        assert agent.process is not None
        agent.process.kill()
        try:
            assert way.kubectl("exec", "ticker-site-b", "--", "true").code == 0
        finally:
            agent.start()
            raven_up.gateway.wait_for("site-a", lanes=["stream_lane"])
        command.wait(seconds=NOTICED)
    wait_until(lambda: works(way), what="exec through the new tunnel", seconds=30)


def test_a_killed_kubelet_ends_what_it_carried(way: ApiServer, cluster: Cluster) -> None:
    node = cluster.nodes["a"]
    with Running(way, "exec", "-i", "ticker-site-a", "--", "sh", "-c", "echo up; cat") as command:
        command.until("up\n")
        node.kubelet.send_signal(signal.SIGKILL)
        try:
            command.wait(seconds=NOTICED)
            refused = way.kubectl("exec", "ticker-site-a", "--", "true", check=False)
            assert refused.code != 0
        finally:
            node.kubelet.wait(5)
            node.start_kubelet()
    wait_until(lambda: works(way), what="exec through the new kubelet", seconds=60)


def test_a_site_that_comes_back_serves_again(way: ApiServer, cluster: Cluster) -> None:
    cluster.world.set_uplink("a", up=False)
    try:
        assert way.kubectl("exec", "ticker-site-b", "--", "true").code == 0
    finally:
        cluster.world.set_uplink("a", up=True)
    wait_until(lambda: works(way), what="exec after the uplink came back", seconds=60)
