"""The packet lane between pods, by ping and iperf3, and how it says no.

cloud-pod ── cloud ══ WireGuard ══ site-a ── pod-a
               ║
               ╚═════ WireGuard ══ site-b ── pod-b        pod-a to pod-b goes through the cloud
"""

import pytest

from tests.e2e.conftest import Lab
from tests.lab import programs, wires
from tests.lab.errors import LabError
from tests.lab.raven import Agent
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

HIDE_TUN = 'mount -n -t tmpfs lab /dev/net && exec "$0" "$@"'


@pytest.mark.parametrize("address", [wires.pod_address, wires.pod_address6], ids=["ipv4", "ipv6"])
def test_every_pod_reaches_every_other(lab: Lab, address: object) -> None:
    assert callable(address)
    pods = {0: lab.world.cloud_pod, 1: lab.a.pod, 2: lab.b.pod}
    for source, pod in pods.items():
        for target in pods:
            if target != source:
                programs.ping_until(pod, address(target), seconds=10)
                programs.ping(pod, address(target))


@pytest.mark.parametrize("server", [wires.pod_address(2), wires.pod_address6(2)], ids=["ipv4", "ipv6"])
def test_a_transfer_between_sites_goes_through_the_gateway(lab: Lab, server: str) -> None:
    before = _bytes(lab)
    transfer = programs.iperf(lab.a.pod, server, seconds=1)
    assert transfer.gigabits > 0
    assert _bytes(lab) - before > transfer.gigabits * 1e9 / 8 * 0.5


def test_wireguards_own_tool_reports_the_same(lab: Lab) -> None:
    for machine in (lab.world.cloud, lab.a.machine, lab.b.machine):
        said = machine.run("wg", "show", machine.interface).out
        assert said.count("latest handshake:") == said.count("peer:") >= 1, said


def test_packets_pass_soon_after_the_hubs_device_was_started_anew(lab: Lab) -> None:
    """Its keys are gone, the agents' are not: they find out as soon as the stream lane is up again."""
    programs.ping_until(lab.a.pod, wires.pod_address(0), seconds=10)
    assert lab.gateway.stop(15) == 0
    lab.gateway.start()
    lab.gateway.ready()
    lab.gateway.wait_for("site-a", "site-b", lanes=("stream_lane",), seconds=30)
    for site in (lab.a, lab.b):
        programs.ping_until(site.pod, wires.pod_address(0), seconds=5)


def test_several_devices_share_the_nodes(lab: Lab) -> None:
    """Three of the gateway's devices, each a process with a port of its own; a restart changes nothing."""
    usual, cloud = lab.gateway.options, lab.world.cloud
    names = [cloud.interface, *(f"{cloud.interface[:12]}-{number}" for number in (1, 2))]

    def shares() -> dict[str, set[str]]:
        peers = {name: cloud.run("wg", "show", name, "peers").out.split() for name in names}
        return {name: set(keys) for name, keys in peers.items()}

    def restarted(options: list[str]) -> None:
        assert lab.gateway.stop(15) == 0
        lab.gateway.options = options
        lab.gateway.start()
        lab.gateway.ready()
        lab.gateway.wait_for("site-a", "site-b", seconds=30)
        wait_until(
            lambda: lab.gateway.ctl_json("status")["packets"]["state"] == "up",
            what="every device of the gateway",
            seconds=20,
        )

    try:
        restarted([*usual, "--devices", "3"])
        held = shares()
        assert sorted(map(len, held.values())) in ([0, 0, 2], [0, 1, 1])
        listening = cloud.run("ss", "-lunH4").out
        assert all(f"0.0.0.0:{port} " in listening for port in (4500, 4502, 4503))
        pods = {0: lab.world.cloud_pod, 1: lab.a.pod, 2: lab.b.pod}
        for source, target in ((0, 1), (0, 2), (1, 2), (2, 1), (1, 0)):
            programs.ping_until(pods[source], wires.pod_address(target), seconds=10)
            programs.ping_until(pods[source], wires.pod_address6(target), seconds=10)
        restarted([*usual, "--devices", "3"])
        assert shares() == held
    finally:
        restarted(usual)
    assert cloud.run("wg", "show", names[1], check=False).code != 0
    programs.ping_until(lab.world.cloud_pod, lab.a.pod_address, seconds=10)


def test_the_path_of_a_site_is_learnt_and_shown(lab: Lab) -> None:
    """The site's uplink takes 1124 bytes from now on; a transfer finds that out, goes on, and it is told."""
    pod = wires.pod_address(1)
    programs.ping_until(lab.world.cloud_pod, pod, seconds=10)
    ends = ((lab.world.internet, "to-a"), (lab.a.nat, "wan"))
    try:
        for machine, end in ends:
            wires.ip([f"link set {end} mtu 1124"], namespace=machine.namespace)

        def learnt() -> bool:
            for source, target in ((lab.world.cloud_pod, pod), (lab.a.pod, wires.pod_address(0))):
                source.run("ping", "-n", "-c", "2", "-i", "0.3", "-W", "1", "-s", "1300", target, check=False)
            shown = lab.agents["a"].ctl_json("status")["packets"]["mtu"]
            return bool(shown == lab.gateway.nodes()["site-a"]["packets"]["mtu"] == 1124 - 60)

        wait_until(learnt, what="1064 bytes to be shown by both ends", seconds=60)
        assert programs.iperf(lab.world.cloud_pod, pod, seconds=1).gigabits > 0
        assert "packets of 1064 bytes" in lab.agents["a"].ctl("status").out
    finally:
        for machine, end in ends:
            wires.ip([f"link set {end} mtu 1500"], namespace=machine.namespace)


def test_no_packets_still_serves_streams(lab: Lab) -> None:
    agent = lab.agents["b"]
    _restart(lab, agent, [*agent.options, "--no-packets"])
    try:
        node = lab.gateway.nodes()["site-b"]
        assert (node["stream_lane"], node["packet_lane"]) == ("up", "off")
        assert lab.gateway.status_of("http://site-b:8080/name") == (200, "site-b")
        assert lab.b.machine.run("wg", "show", lab.b.machine.interface, check=False).code != 0
        with pytest.raises(LabError):
            programs.ping(lab.world.cloud_pod, lab.b.pod_address, count=1)
    finally:
        _restart(lab, agent, agent.options, lanes=("stream_lane", "packet_lane"))
    programs.ping_until(lab.world.cloud_pod, lab.b.pod_address, seconds=10)


@pytest.mark.parametrize(
    ("wrapper", "why"),
    [
        (("unshare", "--mount", "sh", "-c", HIDE_TUN), "/dev/net/tun"),
        (("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"), "CAP_NET_ADMIN"),
    ],
    ids=["no tun", "no capability"],
)
def test_a_host_without_the_means_says_so_and_serves_streams(
    lab: Lab, wrapper: tuple[str, ...], why: str
) -> None:
    agent = lab.agents["b"]
    assert agent.stop() == 0
    agent.process = lab.b.machine.start(*wrapper, *agent.command(), name="agent-without-means")
    try:
        lab.gateway.wait_for("site-b", lanes=["stream_lane"])
        assert lab.gateway.status_of("http://site-b:8080/name") == (200, "site-b")
        wait_until(
            lambda: why in agent.ctl("status", check=False).out.replace("\n", " "),
            what=f"ravenctl status to name {why}",
            seconds=10,
        )
        wait_until(
            lambda: why in lab.gateway.nodes()["site-b"]["packets"]["detail"],
            what="the gateway to know why",
            seconds=10,
        )
    finally:
        _restart(lab, agent, agent.options, lanes=("stream_lane", "packet_lane"))


def test_of_two_agents_with_one_pod_network_the_first_keeps_it(lab: Lab) -> None:
    """The second says why it cannot take part; its streams work, and the first one's packets go on."""
    agent = lab.agents["b"]
    _restart(lab, agent, [*_without_cidrs(agent), "--pod-cidr", lab.a.pod_cidrs[0]])
    try:
        programs.ping(lab.world.cloud_pod, lab.a.pod_address)
        node = lab.gateway.nodes()["site-b"]
        assert node["packet_lane"] != "up"
        assert "site-a" in node["packets"]["detail"], node
        assert lab.a.pod_cidrs[0] in lab.gateway.nodes()["site-a"]["pod_cidrs"]
        assert lab.gateway.status_of("http://site-b:8080/name") == (200, "site-b")
    finally:
        _restart(lab, agent, agent.options, lanes=("stream_lane", "packet_lane"))
    programs.ping_until(lab.world.cloud_pod, lab.b.pod_address, seconds=10)


def _without_cidrs(agent: Agent) -> list[str]:
    words = list(agent.options)
    while "--pod-cidr" in words:
        place = words.index("--pod-cidr")
        del words[place : place + 2]
    return words


def _restart(lab: Lab, agent: Agent, options: list[str], lanes: tuple[str, ...] = ("stream_lane",)) -> None:
    """Stops the agent and runs it with `options` this once."""
    usual = agent.options
    assert agent.stop() == 0
    agent.options = options
    try:
        agent.start()
    finally:
        agent.options = usual
    lab.gateway.wait_for(agent.name, lanes=lanes)


def _bytes(lab: Lab) -> int:
    """What the gateway's device has received from all peers."""
    dump = lab.world.cloud.run("wg", "show", lab.world.cloud.interface, "transfer").out
    return sum(int(line.split("\t")[1]) for line in dump.splitlines())
