"""Real daemons on a real kernel's WireGuard: `raven-agent` in a virtual machine, a gateway outside.

    third ── cloud                                  guest (qemu)
    pod      raven-gateway, raven-wg                raven-agent, in-kernel WireGuard
    10.83.0.1  10.80.0.1 ── kernel (tap) ── eth0      10.81.0.1

The agent holds the kernel's device by netlink, with the code that holds a `raven-wg` by its socket.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from raven.net.end import KEYS_EXPIRE
from tests.e2e.wireguard.network import Network, ping, pings, rule
from tests.kernel import image, interpreter
from tests.kernel.guest import GUEST4, GUEST6, HOST4, Guest
from tests.lab import wires
from tests.lab.machine import Machine
from tests.lab.raven import Agent, Gateway
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(600)]

CLOUD_POD, GUEST_POD, THIRD_POD = "10.80.0.1", "10.81.0.1", "10.83.0.1"
MEMORY = 512  # MiB; the interpreter and its libraries stay in the initramfs
SLOWLY = 240.0  # seconds; ten for an agent to start where the machine has nothing else to do
DEVICE = "rvn0"


class Site(NamedTuple):
    gateway: Gateway
    guest: Guest
    third: Machine
    backend: str = ""  # of the agent that runs

    def status(self) -> dict[str, Any]:
        """What the agent's own `ravenctl` says."""
        said: dict[str, Any] = json.loads(
            self.guest.run("ravenctl --socket /tmp/agent.sock status -o json || true", seconds=SLOWLY)
        )
        return said

    def networks(self) -> set[str]:
        """What the kernel's peer may send, by the guest's own `wg`."""
        (allowed,) = [
            line.partition("\t")[2] for line in self.guest.run(f"wg show {DEVICE} allowed-ips").splitlines()
        ]
        return set(allowed.split())

    def handshake(self) -> int:
        (at,) = [
            line.partition("\t")[2]
            for line in self.guest.run(f"wg show {DEVICE} latest-handshakes").splitlines()
        ]
        return int(at)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Network("cloud", "third") as network:
        cloud, third = network["cloud"], network["third"]
        wires.plug(cloud, "to-third", third, "eth0")
        wires.ip(
            [f"addr add {CLOUD_POD}/32 dev lo", "addr add 192.0.2.1/24 dev to-third"],
            namespace=cloud.namespace,
        )
        wires.ip(
            [
                *(f"addr add {THIRD_POD}/32 dev lo", "addr add 192.0.2.2/24 dev eth0"),
                "route add default via 192.0.2.1",
            ],
            namespace=third.namespace,
        )
        cloud.set_sysctl(ipv4__ip_forward=1)
        gateway = Gateway(
            cloud,
            name="gateway",
            host=HOST4,
            options=["--pod-cidr", "10.80.0.0/24", "--pod-range", "10.80.0.0/12"],
        )
        gateway.start()
        gateway.ready()
        # Joined out here: each start of Python in there takes long.
        state = network.directory / "vm"
        command = ("raven-agent", "join", "--state-dir", str(state), "--node", "vm")
        cloud.run(*command, "--gateway", "127.0.0.1:10262", "--token", gateway.token("--node", "vm"))
        joined = {f"state/{path.name}": path.read_bytes() for path in state.iterdir() if path.is_file()}
        try:
            packed = interpreter.files(network.directory) | joined
            built = image.build(network.directory, guest4=GUEST4, guest6=GUEST6, more=packed)
        except image.NotAvailableError as error:
            pytest.skip(f"no virtual machine: {error}")
        guest = Guest(cloud, built, memory=MEMORY)
        guest.wait()
        # The guest's kernel is a second behind with what it says of its cable.
        wait_until(
            lambda: "NO-CARRIER" not in guest.run("ip link") and "fe80::" in guest.run("ip -6 route"),
            what="the guest to see its cable",
            seconds=SLOWLY,
        )
        guest.run(f"ip addr add {GUEST_POD}/32 dev lo; cp -r /state /tmp/agent; chmod -R go= /tmp/agent")
        yield Site(gateway, guest, third)


@pytest.fixture(params=["kernel", "auto"])
def held(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The agent runs, with that backend."""
    links = site.guest.run("ip link; ip route; ip -6 route")
    site.guest.run(
        f"raven-agent run --state-dir /tmp/agent --socket /tmp/agent.sock --backend {request.param}"
        f" --gateway {HOST4}:10262 --wg-interface {DEVICE} --pod-cidr 10.81.0.0/24 --metrics-listen off"
        " </dev/null >/tmp/agent.log 2>&1 & echo $! >/tmp/agent.pid"
    )
    try:
        site.gateway.wait_for("vm", lanes=["stream_lane"], seconds=SLOWLY)
        running = site._replace(backend=request.param)
        # The gateway believes in the device before for a while; who has this one says so first.
        wait_until(
            lambda: running.status()["packets"]["state"] == "up", what="the agent's packets", seconds=SLOWLY
        )
        yield running
    except Exception:
        print(site.guest.run("tail -c 3000 /tmp/agent.log"))  # noqa: T201
        raise
    finally:
        site.guest.run("kill -TERM $(cat /tmp/agent.pid)")
    wait_until(
        lambda: site.guest.run("kill -0 $(cat /tmp/agent.pid) 2>/dev/null || echo ended") == "ended",
        what="the agent to end",
        seconds=SLOWLY,
    )
    assert site.guest.run("ip link; ip route; ip -6 route") == links


def test_an_agent_holds_the_kernels_device(held: Site) -> None:
    guest, cloud = held.guest, held.gateway.machine
    assert f"/sys/class/net/{DEVICE}" in guest.run("grep -l DEVTYPE=wireguard /sys/class/net/*/uevent")
    assert guest.run("ls /var/run/wireguard 2>/dev/null || true") == ""
    wait_until(
        lambda: ping(cloud, GUEST_POD, "-I", CLOUD_POD),
        what="packets to the guest, whose device before had other keys",
        seconds=30,
    )
    pings(cloud, GUEST_POD, "-I", CLOUD_POD, count=3)
    guest.run(f"ping -c 3 -I {GUEST_POD} {CLOUD_POD}")
    lane = held.status()["packets"]
    assert lane["state"] == "up"
    assert 0 <= lane["handshake_age_s"] < KEYS_EXPIRE
    if held.backend == "auto":
        return  # it is the same device; what follows takes an emulated processor long
    # A node that comes and goes changes what the kernel's peer carries; the peer itself stays.
    before = held.handshake()
    third = Agent(held.third, name="third", options=["--pod-cidr", "10.83.0.0/24"])
    third.join(held.gateway.token("--node", "third", "--reusable"), "--force", gateway=f"{HOST4}:10262")
    third.start()
    held.gateway.wait_for("third", seconds=40)
    wait_until(lambda: "10.83.0.0/24" in held.networks(), what="the third's pods", seconds=20)
    guest.run(f"ping -c 3 -I {GUEST_POD} {THIRD_POD}")
    pings(held.third, GUEST_POD, "-I", THIRD_POD)
    third.stop()
    cloud.run("raven-gateway", "node", "remove", "third", "--state-dir", str(held.gateway.state))
    wait_until(lambda: "10.83.0.0/24" not in held.networks(), what="the third's pods to go", seconds=20)
    assert held.handshake() == before
    # A hub's device that was started anew has lost its keys; the gateway says so, and others are made.
    cloud.run("ip", "link", "del", cloud.interface)
    wait_until(
        lambda: cloud.run("ping", "-c1", "-W1", "-I", CLOUD_POD, GUEST_POD, check=False).code == 0,
        what="packets through the new device",
        seconds=25,
    )
    # Where no UDP passes the kernel's packets go through the agent's tunnel.
    with rule(cloud, "iifname kernel udp dport 4500 drop"):
        wait_until(
            lambda: "through the tunnel" in held.gateway.nodes()["vm"]["packets"]["detail"],
            what="packets through the tunnel",
            seconds=SLOWLY,
        )
        wait_until(lambda: ping(cloud, GUEST_POD, "-I", CLOUD_POD), what="an answer", seconds=20)
        assert "127.0.0.1:" in guest.run(f"wg show {DEVICE} endpoints")
